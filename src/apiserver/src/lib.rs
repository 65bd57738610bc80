//! The Kubernetes API server over the rk store.
