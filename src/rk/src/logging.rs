//! Log output: one line per event on standard error, quiet by default.

use anyhow::Context;
use std::io::IsTerminal;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// `verbose` counts `-v`. `RK_LOG` (levels by target, such as `info,node=debug`) goes before it.
pub(crate) fn start(verbose: u8, format: Format) -> anyhow::Result<()> {
    let filter = match std::env::var("RK_LOG") {
        Ok(filter) => parse(&filter).with_context(|| format!("RK_LOG={filter:?} is no log filter"))?,
        Err(_) => parse(&default_filter(verbose))?,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        Format::Text => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).init(),
        Format::Json => registry.with(layer.json()).init(),
    }
    Ok(())
}

fn parse(filter: &str) -> anyhow::Result<Targets> {
    Ok(filter.parse()?)
}

fn default_filter(verbose: u8) -> String {
    // To openraft every peer that is away, and every change of the leader, is an error. What stops the store it reports.
    let (level, openraft) = match verbose {
        0 => ("info", "off"),
        1 => ("debug", "warn"),
        _ => ("trace", "warn"),
    };
    format!(
        "{level},openraft={openraft},hyper=warn,h2=warn,rustls=warn,kube=warn,tower=warn,libcontainer=warn,libcgroups=warn,hickory_resolver=warn,hickory_proto=warn,nlink=error"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn filters_tell_levels_by_target() {
        let filter = parse(&default_filter(1)).unwrap();
        assert!(filter.would_enable("node::pods", &Level::DEBUG));
        assert!(!filter.would_enable("openraft::core", &Level::INFO));
        let filter = parse("info,node=debug").unwrap();
        assert!(filter.would_enable("node", &Level::DEBUG) && !filter.would_enable("net", &Level::DEBUG));
        assert!(parse("node=loud").is_err());
    }
}
