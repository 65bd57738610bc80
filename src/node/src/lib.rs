//! The node agent: pod sync, volumes, probes, images, status.
