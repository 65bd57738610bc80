//! The Kubernetes API server over the rk store.
//!
//! One request's way: transport ([`ApiServer::serve`] or [`ApiServer::service_for`]) → `handler` (authentication,
//! authorization) → `rest` (the generic verbs) with `admission` and the kind's strategy → store; and back as the
//! store's own bytes. Watches and lists read `cache`, which follows the store's committed log. Nothing outside this
//! crate and the executable knows the store.
#![forbid(unsafe_code)]

mod admission;
mod alloc;
mod api_services;
mod authn;
mod authz;
mod background;
mod body;
mod bootstrap;
mod cache;
mod chunks;
mod config;
mod connection;
mod convert;
mod crd;
mod dial;
mod discovery;
mod encoded;
mod events;
mod frames;
mod handler;
mod in_process;
mod keys;
mod legacy_tokens;
mod limits;
mod managed;
mod metrics;
mod namespaces;
mod negotiate;
mod nonresource;
mod openapi;
mod path;
mod pod_refs;
mod proxy;
mod query;
mod registry;
mod respond;
mod rest;
mod role_sums;
mod selection;
mod serve;
mod server;
mod servers;
mod strategies;
mod subresource;
mod validation;
mod views;
mod virtuals;
mod wire;

pub use authn::{
    User,
    jwt::JwtError,
    user::{ETCD_CLIENTS, SERVERS},
};
pub use body::{Body, BoxError, RequestBody, request_body};
pub use config::{Config, ServiceAccountConfig, StaticToken};
pub use dial::{NoNodes, NodeDialer, NodeStream};
pub use in_process::InProcess;
pub use limits::Limits;
pub use server::{ApiServer, ExtraRoute, StartError};
