//! Log output: one line per event on standard error, quiet by default.

use anyhow::Context;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// `verbose` counts `-v`. `RK_LOG` (a tracing filter such as `info,node=debug`) goes before it.
pub(crate) fn start(verbose: u8, format: Format) -> anyhow::Result<()> {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = match std::env::var("RK_LOG") {
        Ok(filter) => EnvFilter::try_new(&filter).with_context(|| format!("RK_LOG={filter:?} is no log filter"))?,
        Err(_) => EnvFilter::new(format!(
            "{level},openraft=warn,hyper=warn,h2=warn,rustls=warn,kube=warn,tower=warn,libcontainer=warn,libcgroups=warn,hickory_resolver=warn,hickory_proto=warn,nlink=error"
        )),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        Format::Json => builder.json().init(),
    }
    Ok(())
}
