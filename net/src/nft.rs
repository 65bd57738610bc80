//! rk's nftables table: services, node ports, host ports, masquerade.
//!
//! [`render`] turns inputs into a [`model::Ruleset`] and [`diff`] turns two of those into changes, both pure;
//! [`wire`] spells changes in netlink; [`firewall`] holds the socket and what was last applied. No other part of the
//! crate knows nftables, and no table but rk's own is named anywhere.

pub(crate) mod diff;
pub(crate) mod firewall;
pub(crate) mod model;
pub(crate) mod render;
mod wire;
