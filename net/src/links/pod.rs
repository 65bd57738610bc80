//! A pod's veth pair: one end on the bridge, the other as `eth0` in the pod's namespace.
//!
//! The host's end is named after the pod's id and its alias holds id and address, so that whatever happens to the
//! lease file, the kernel can tell whose it is.

use std::net::Ipv4Addr;

use nlink::Connection;
use nlink::netlink::Route;
use nlink::netlink::devconf::AddrGenMode;
use nlink::netlink::link::{BridgePortConfig, VethLink};
use nlink::netlink::messages::LinkMessage;
use nlink::netlink::route::Ipv4Route;
use nlink::netlink::types::route::RouteScope;

use super::{Doing as _, index_of, mac_of, set_address};
use crate::error::NetError;
use crate::netns::Netns;

const INSIDE: &str = "eth0";
const PREFIX: &str = "rk";

/// What to connect, and to what.
pub(crate) struct Plug<'a> {
    pub(crate) pod_id: &'a str,
    pub(crate) netns: &'a Netns,
    pub(crate) ip: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) bridge: u32,
    pub(crate) mtu: u32,
}

/// The host interface of a pod: within the kernel's 15 bytes, and the same every time (FNV-1a of the id).
pub(crate) fn interface_name(pod_id: &str) -> String {
    let hash = pod_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{PREFIX}{:012x}", hash & 0xffff_ffff_ffff)
}

/// Makes the pair as wanted, or completes one that is half made.
pub(crate) async fn ensure(route: &Connection<Route>, plug: &Plug<'_>) -> Result<(), NetError> {
    let name = interface_name(plug.pod_id);
    let doing = || format!("connect pod {}", plug.pod_id);
    let inside = plug.netns.route().doing(doing)?;
    let outer = route.get_link_by_name(name.as_str()).await.doing(doing)?;
    let inner = inside.get_link_by_name(INSIDE).await.doing(doing)?;
    let usable = match (&outer, &inner) {
        (Some(outer), Some(inner)) => outer.kind() == Some("veth") && inner.address() == Some(&mac_of(plug.ip)),
        _ => false,
    };
    let outer = match outer {
        Some(outer) if usable => outer.ifindex(),
        stale => {
            // The pair of a namespace that is gone, or one that was left half made.
            if stale.is_some() {
                route.del_link_if_exists(name.as_str()).await.doing(doing)?;
            }
            if let Some(inner) = inner.filter(|inner| inner.kind() == Some("veth")) {
                inside.del_link_by_index(inner.ifindex()).await.doing(doing)?;
            }
            create(route, plug, &name).await?
        }
    };
    inside_up(&inside, plug).await?;
    plug_in(route, outer, plug.bridge).await.doing(doing)
}

async fn create(route: &Connection<Route>, plug: &Plug<'_>, name: &str) -> Result<u32, NetError> {
    let doing = || format!("create interface {name} for pod {}", plug.pod_id);
    let pair = VethLink::new(name, INSIDE)
        .mtu(plug.mtu)
        .peer_mtu(plug.mtu)
        .peer_address(mac_of(plug.ip))
        .peer_netns_fd(plug.netns.file());
    route.add_link(pair).await.doing(doing)?;
    let index = index_of(route, name).await?;
    route.set_link_alias_by_index(index, &format!("{} {}", plug.pod_id, plug.ip)).await.doing(doing)?;
    if let Err(error) = route.set_addr_gen_mode_by_index(index, AddrGenMode::None).await {
        tracing::debug!(%error, "pod interface keeps its IPv6 address mode");
    }
    Ok(index)
}

/// Loopback, address and routes in the pod's namespace.
async fn inside_up(inside: &Connection<Route>, plug: &Plug<'_>) -> Result<(), NetError> {
    let doing = || format!("configure the namespace of pod {}", plug.pod_id);
    inside.set_link_up("lo").await.doing(doing)?;
    let index = index_of(inside, INSIDE).await?;
    set_address(inside, index, plug.ip, 32).await?;
    inside.set_link_up_by_index(index).await.doing(doing)?;
    let gateway = Ipv4Route::from_addr(plug.gateway, 32).dev_index(index).scope(RouteScope::Link).prefsrc(plug.ip);
    inside.replace_route(gateway).await.doing(doing)?;
    let everything = Ipv4Route::default_route().gateway(plug.gateway).dev_index(index).prefsrc(plug.ip);
    inside.replace_route(everything).await.doing(doing)
}

/// Removes the pair; none is no error.
pub(crate) async fn remove(route: &Connection<Route>, pod_id: &str) -> Result<(), NetError> {
    let name = interface_name(pod_id);
    route.del_link_if_exists(name.as_str()).await.map(drop).doing(|| format!("remove interface {name}"))
}

/// A pod's interface as the kernel has it.
pub(crate) struct Present {
    pub(crate) pod_id: String,
    /// The address the pod was given.
    pub(crate) ip: Ipv4Addr,
    index: u32,
    bridge: Option<u32>,
}

/// The pods whose interfaces the kernel has.
pub(crate) async fn present(route: &Connection<Route>) -> Result<Vec<Present>, NetError> {
    let links = route.get_links().await.doing(|| "list interfaces".into())?;
    Ok(links.iter().filter_map(recognise).collect())
}

fn recognise(link: &LinkMessage) -> Option<Present> {
    let (pod_id, ip) = link.alias()?.rsplit_once(' ')?;
    let ours = link.kind() == Some("veth") && link.name()? == interface_name(pod_id);
    let ip = ip.parse().ok()?;
    ours.then(|| Present { pod_id: pod_id.to_owned(), ip, index: link.ifindex(), bridge: link.master() })
}

/// Puts the pod on the bridge if it is not there: a bridge that was deleted and made again has lost its ports.
pub(crate) async fn replug(route: &Connection<Route>, pod: &Present, bridge: u32) -> Result<(), NetError> {
    if pod.bridge == Some(bridge) {
        return Ok(());
    }
    plug_in(route, pod.index, bridge).await.doing(|| format!("connect pod {}", pod.pod_id))
}

async fn plug_in(route: &Connection<Route>, index: u32, bridge: u32) -> nlink::Result<()> {
    route.set_link_master_by_index(index, bridge).await?;
    // A bridge that shows frames to nftables may send a pod's packet back where it came from.
    route.set_bridge_port_by_index(index, BridgePortConfig::new().hairpin(true)).await?;
    route.set_link_up_by_index(index).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_the_kernel_and_differ() {
        let a = interface_name("0d1f6c1e-6f5b-4f0e-9d53-3c2f7a1b9e10");
        let b = interface_name("0d1f6c1e-6f5b-4f0e-9d53-3c2f7a1b9e11");
        assert!(a.len() <= 15 && b.len() <= 15, "{a} {b}");
        assert_ne!(a, b);
    }
}
