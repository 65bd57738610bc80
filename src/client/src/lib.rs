//! How every component of rk sees the Kubernetes API: `kube::Client` over two transports, shared informers and
//! an event recorder. Nothing here knows whether the API server is in this process or on another machine.
//!
//! Called by controllers, scheduler, node, kubectl and the executable. Invariants:
//! - one watch and one store per kind (and scope) and process, started by the first user;
//! - a subscriber never loses a state change and never blocks the watch: changes to one key coalesce;
//! - nothing here wakes up while the cluster is idle, except to renew a watch that the server ended.
#![forbid(unsafe_code)]

pub mod api;
pub mod backoff;
pub mod dial;
pub mod election;
pub mod events;
pub mod https;
pub mod informer;
pub mod informers;
pub mod key;
pub mod kubeconfig;
pub mod persist;
pub mod resolve;
pub mod retry;
pub mod servers;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;
pub mod transport;

pub use api::Api;
pub use dial::{DialError, Dialer};
pub use election::Election;
pub use events::{EventRecorder, EventType};
pub use https::{Credentials, HttpsConfig, HttpsError, https};
pub use informer::{Change, Index, Informer, Observed, Subscription};
pub use informers::{Informers, Scope};
pub use key::ObjectKey;
pub use kubeconfig::{Kubeconfig, KubeconfigError};
pub use retry::retry_on_conflict;
pub use servers::{KnownServers, ServerList};
pub use transport::in_process;
