//! Pure Kubernetes knowledge: kinds, schemas, selectors, quantities, patches, codecs.
#![forbid(unsafe_code)]

pub mod apply;
pub mod columns;
pub mod convert;
pub mod cron;
pub mod decode;
pub mod defaults;
pub mod discovery;
pub mod duration;
pub mod field;
pub mod intstr;
pub mod kinds;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod validation;
