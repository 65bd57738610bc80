//! Certificate authority, leaf certificates, join tokens.
