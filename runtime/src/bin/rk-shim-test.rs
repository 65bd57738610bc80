//! Stands in for the rk executable in this crate's tests: it knows the hidden `shim` subcommand, and `hold`, which
//! runs a container of an image that is there and then waits to be killed.

use runtime::images::RegistriesConfig;
use runtime::{ContainerSpec, PodSpec, Runtime, RuntimeConfig};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(arg) if arg == "shim" => runtime::shim::main(args),
        Some(arg) if arg == "hold" => {
            let args: Vec<String> = args.filter_map(|arg| arg.into_string().ok()).collect();
            let [folder, cgroup, image] = <[String; 3]>::try_from(args).map_err(|_| "hold FOLDER CGROUP IMAGE")?;
            tokio::runtime::Runtime::new()?.block_on(hold(folder.into(), cgroup, image))
        }
        _ => Err("usage: rk-shim-test shim FOLDER | hold FOLDER CGROUP IMAGE".into()),
    }
}

async fn hold(folder: PathBuf, cgroup_parent: String, image: String) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::open(RuntimeConfig {
        root: folder.join("root"),
        state: folder.join("run"),
        exe: std::env::current_exe()?,
        cgroup_parent,
        registries: RegistriesConfig::default(),
    })
    .await?;
    let pod = runtime.run_pod(PodSpec { id: "held".into(), ..PodSpec::default() }).await?.spec.id.clone();
    let args = ["sh", "-c", "while [ ! -e /tmp/stop ]; do sleep 0.05; done; exit 6"].map(str::to_owned).to_vec();
    let id = runtime.create_container(&pod, ContainerSpec { image, args, ..ContainerSpec::default() }).await?;
    runtime.start_container(&id).await?;
    println!("{id}");
    std::future::pending().await
}
