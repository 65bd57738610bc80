//! Pure Kubernetes knowledge: kinds, schemas, selectors, quantities, patches, codecs.
#![forbid(unsafe_code)]

pub mod apply;
pub mod columns;
pub mod field;
pub mod kinds;
pub mod names;
pub mod patch;
pub mod schema;
pub mod status;
pub mod strategy;
