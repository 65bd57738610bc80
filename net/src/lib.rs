//! Bridge, overlay, nftables services, DNS.
