//! The generic strategy of built-in kinds: `Value` outside, `k8s_openapi` types inside.
