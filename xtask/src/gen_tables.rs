//! `cargo xtask gen-tables`: facts about the API's types, from published descriptions to `embedded/tables/*.txt`.
//!
//! Only facts are written (names, types, tags, keys, defaults, enumerations), never prose. `objects::schema` and
//! `objects::protobuf` parse the results; their grammar is described there and in each file's header. Running it again on the same
//! sources gives the same bytes.

mod definitions;
mod go;
mod proto;
mod protobuf_table;
mod schema_table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// An unpacked `kubernetes-validate` 1.36.0 wheel (the folder that holds `kubernetes_validate/`).
    #[arg(long)]
    validate: PathBuf,
    /// A folder with the Go modules api, apimachinery, apiextensions-apiserver and kube-aggregator, tag v0.36.0, each
    /// under its module name (`k8s.io/api`, ...).
    #[arg(long)]
    modules: PathBuf,
    #[arg(long, default_value = "embedded/tables")]
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let definitions = definitions::load(&args.validate)?;
    let go = go::load(&args.modules)?;
    let proto = proto::load(&args.modules)?;
    write(&args.out, "schema.txt", &schema_table::render(&definitions, &go))?;
    write(&args.out, "protobuf.txt", &protobuf_table::render(&proto, &go)?)
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}: {} lines, {} bytes", path.display(), text.lines().count(), text.len());
    Ok(())
}

/// `k8s.io/api/core/v1` → `io.k8s.api.core.v1`.
fn definition_package(folder: &str) -> String {
    format!("io.k8s.{}", folder.trim_start_matches("k8s.io/").replace('/', "."))
}

/// True for packages of alpha and beta versions, which are not served.
fn is_unstable(package: &str) -> bool {
    let version = package.rsplit('.').next().unwrap_or("");
    version.contains("alpha") || version.contains("beta")
}
