//! Pure Kubernetes knowledge: kinds, schemas, selectors, quantities, patches, codecs.
#![forbid(unsafe_code)]

pub mod kinds;
pub mod schema;
