//! The node's bridge: gateway of its pods, and where the route for cluster IPs points.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nlink::Connection;
use nlink::netlink::Route;
use nlink::netlink::devconf::{AddrGenMode, Ipv4Devconf};
use nlink::netlink::link::BridgeLink;
use nlink::netlink::route::Ipv4Route;
use nlink::netlink::types::route::RouteScope;

use super::{Doing as _, ROUTE_OWNER, index_of, mac_of, own_link, set_address};
use crate::error::NetError;

/// Makes the bridge as wanted; its index.
pub(crate) async fn ensure(
    route: &Connection<Route>,
    name: &str,
    gateway: Ipv4Addr,
    range: Ipv4Net,
    mtu: u32,
) -> Result<u32, NetError> {
    let doing = || format!("set up bridge {name}");
    let (index, up) = match own_link(route, name, "bridge").await? {
        Some(link) => {
            let index = link.ifindex();
            if link.address() != Some(&mac_of(gateway)) {
                route.set_link_address_by_index(index, mac_of(gateway)).await.doing(doing)?;
            }
            (index, link.is_up())
        }
        None => {
            let link = BridgeLink::new(name).stp(false).forward_delay_ms(0).address(mac_of(gateway));
            route.add_link(link).await.doing(doing)?;
            (index_of(route, name).await?, false)
        }
    };
    route.pin_bridge_mtu_by_index(index, mtu).await.doing(doing)?;
    if !up {
        // No router solicitations: nothing on this link speaks IPv6 yet.
        if let Err(error) = route.set_addr_gen_mode_by_index(index, AddrGenMode::None).await {
            tracing::debug!(%error, "bridge keeps its IPv6 address mode");
        }
        route.set_link_up_by_index(index).await.doing(doing)?;
    }
    let settings = [(Ipv4Devconf::RouteLocalnet, 1), (Ipv4Devconf::SendRedirects, 0)];
    route.set_ipv4_devconf_by_index(index, &settings).await.doing(doing)?;
    set_address(route, index, gateway, range.prefix_len()).await?;
    Ok(index)
}

/// The route for cluster IPs. Packets never follow it (they are translated first), but a node without a default route
/// could not send them at all, and the source it names is an address every node's pods can answer.
pub(crate) async fn ensure_service_route(
    route: &Connection<Route>,
    index: u32,
    services: Ipv4Net,
    gateway: Ipv4Addr,
) -> Result<(), NetError> {
    let wanted = Ipv4Route::from_addr(services.network(), services.prefix_len())
        .dev_index(index)
        .prefsrc(gateway)
        .scope(RouteScope::Link)
        .protocol(ROUTE_OWNER);
    route.replace_route(wanted).await.doing(|| format!("add the route for {services}"))
}
