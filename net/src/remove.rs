//! Takes away everything rk made, known only by name and mark: works for a process that did not make it.

use crate::config::NetConfig;
use crate::error::NetError;
use crate::ipam;
use crate::links::{self, Doing as _, overlay, pod};
use crate::netns::Netns;
use crate::nft::firewall;

/// Pods' interfaces, routes, devices, the table, the leases. What is gone already is no error.
pub(crate) async fn everything(config: &NetConfig, host: &Netns) -> Result<(), NetError> {
    let opening = || "open a netlink socket".to_owned();
    let route = host.route().doing(opening)?;
    for pod in pod::present(&route).await? {
        pod::remove(&route, &pod.pod_id).await?;
    }
    overlay::remove_routes(&route).await?;
    for (name, kind) in [(&config.overlay, "vxlan"), (&config.bridge, "bridge")] {
        if links::own_link(&route, name, kind).await?.is_some() {
            route.del_link_if_exists(name.as_str()).await.doing(|| format!("remove {kind} {name}"))?;
        }
    }
    let nftables = host.nftables().doing(opening)?;
    firewall::remove(&nftables, &config.table).await.doing(|| format!("delete nftables table {}", config.table))?;
    ipam::forget(&config.state_dir)
}
