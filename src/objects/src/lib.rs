//! Pure Kubernetes knowledge: kinds, schemas, selectors, quantities, patches, codecs.
#![forbid(unsafe_code)]

pub mod columns;
pub mod discovery;
pub mod field;
pub mod kinds;
pub mod names;
pub mod openapi;
pub mod schema;
pub mod status;
pub mod strategy;
