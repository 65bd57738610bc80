//! kube::Client transports, shared informers, event recorder.
