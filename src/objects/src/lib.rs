//! Pure Kubernetes knowledge: kinds, schemas, selectors, quantities, patches, codecs.
