//! The scheduler: queue, cache, pure scheduling cycle.
