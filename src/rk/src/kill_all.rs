//! `rk kill-all`: ends every container of this machine and removes what rk made outside its data folder.

use crate::cli::KillAllArgs;
use crate::{images, preflight};
use anyhow::Context;
use net::{Net, NetConfig};
use runtime::images::RegistriesConfig;
use runtime::{Runtime, RuntimeConfig};

pub(crate) async fn run(args: KillAllArgs) -> anyhow::Result<()> {
    let KillAllArgs { data_dir, state_dir, cgroup_root } = args;
    preflight::require_root("rk kill-all")?;
    let data_dir = std::path::absolute(data_dir)?;
    let runtime = Runtime::open(RuntimeConfig {
        root: images::store_path(&data_dir),
        state: std::path::absolute(state_dir)?,
        exe: std::env::current_exe().context("find rk's own executable")?,
        cgroup_parent: cgroup_root.clone(),
        registries: RegistriesConfig::default(),
    })
    .await
    .context("find the containers")?;
    for pod in runtime.list_pods() {
        runtime.stop_pod(&pod.id).await.with_context(|| format!("stop pod {}", pod.id))?;
        runtime.remove_pod(&pod.id).await.with_context(|| format!("remove pod {}", pod.id))?;
    }
    runtime.remove_cgroup(&cgroup_root).context("remove the cgroups")?;
    node::remove_mounts(&data_dir.join("agent")).context("remove volume mounts")?;
    Net::remove(&NetConfig { state_dir: data_dir.join("agent/net"), ..NetConfig::default() })
        .await
        .context("remove the pod network")
}
