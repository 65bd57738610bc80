//! Black-box suite: TestCluster, scenarios, tidy and layering.
