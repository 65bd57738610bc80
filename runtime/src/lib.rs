//! OCI images and containers in process, one shim per pod.
