//! The configuration file: YAML whose keys are flag names. Its entries become arguments in front of the typed ones,
//! so that flags win over them; a key whose environment variable is set is left out, so that the environment wins too.

use anyhow::{Context, bail};
use serde_yaml_ng::Value;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Returns `args` with the entries of the configuration file inserted after the subcommand.
pub(crate) fn merge(command: &clap::Command, args: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let subcommand = args.get(1).and_then(|name| name.to_str()).and_then(|name| command.find_subcommand(name));
    let Some(subcommand) = subcommand.filter(|sub| sub.get_arguments().any(|arg| arg.get_long() == Some("config")))
    else {
        return Ok(args);
    };
    let (path, explicit) = config_path(&args[2..]);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !explicit => return Ok(args),
        Err(error) => return Err(error).with_context(|| format!("read configuration file {}", path.display())),
    };
    // Short-lived commands share the file of the server, and take what concerns them.
    let others = command.find_subcommand("server").filter(|_| subcommand.has_subcommands());
    let entries = entries(subcommand, others, &path, &text)?;
    let (head, typed) = args.split_at(2);
    Ok(head.iter().cloned().chain(entries.into_iter().map(OsString::from)).chain(typed.iter().cloned()).collect())
}

fn config_path(typed: &[OsString]) -> (PathBuf, bool) {
    let mut given = None;
    for (index, arg) in typed.iter().enumerate() {
        let Some(arg) = arg.to_str() else { continue };
        if let Some(value) = arg.strip_prefix("--config=") {
            given = Some(OsString::from(value));
        } else if arg == "--config" {
            given = typed.get(index + 1).cloned();
        }
    }
    match given.or_else(|| std::env::var_os("RK_CONFIG")) {
        Some(path) => (PathBuf::from(path), true),
        None => (PathBuf::from(super::DEFAULT_CONFIG_FILE), false),
    }
}

/// Keys of `others` are left out.
fn entries(
    subcommand: &clap::Command,
    others: Option<&clap::Command>,
    path: &Path,
    text: &str,
) -> anyhow::Result<Vec<String>> {
    let place = || format!("configuration file {}", path.display());
    let document: Value = serde_yaml_ng::from_str(text).with_context(place)?;
    let mapping = match document {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(mapping) => mapping,
        _ => bail!("{}: must be a mapping of flag names to values", place()),
    };
    let mut arguments = Vec::new();
    for (key, value) in mapping {
        let key = key.as_str().with_context(|| format!("{}: every key must be a text", place()))?;
        let find = |command: &'_ clap::Command| -> Option<usize> {
            command.get_arguments().position(|arg| arg.get_long() == Some(key) && key != "config")
        };
        let known = find(subcommand).and_then(|index| subcommand.get_arguments().nth(index));
        let Some(argument) = known else {
            if others.and_then(find).is_some() {
                continue;
            }
            bail!("{}: unknown key {key:?}{}", place(), nearest(subcommand, key));
        };
        if argument.get_env().and_then(|name: &OsStr| std::env::var_os(name)).is_some() {
            continue;
        }
        for value in
            scalars(&value).with_context(|| format!("{}: {key} must be a value or a list of values", place()))?
        {
            arguments.push(format!("--{key}={value}"));
        }
    }
    Ok(arguments)
}

fn scalars(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Sequence(items) => items.iter().map(scalar).collect(),
        other => Some(vec![scalar(other)?]),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn nearest(subcommand: &clap::Command, key: &str) -> String {
    let similar = |name: &str| strsim::jaro_winkler(name, key);
    let best = subcommand
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .filter(|name| *name != "config" && similar(name) > 0.7)
        .max_by(|a, b| similar(a).total_cmp(&similar(b)));
    best.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    fn read(text: &str) -> anyhow::Result<Vec<String>> {
        let command = Cli::command();
        entries(command.find_subcommand("server").unwrap(), None, Path::new("/etc/rk/config.yaml"), text)
    }

    #[test]
    fn scalars_and_lists_become_flags() {
        let got = read("https-listen-port: 7443\ntls-san: [a, b]\ndemo: true\n").unwrap();
        assert_eq!(got, ["--https-listen-port=7443", "--tls-san=a", "--tls-san=b", "--demo=true"]);
        assert!(read("").unwrap().is_empty());
    }

    #[test]
    fn an_unknown_key_names_file_and_nearest_flag() {
        let error = read("cluster-cdir: 10.0.0.0/8").unwrap_err().to_string();
        assert!(error.contains("/etc/rk/config.yaml") && error.contains("\"cluster-cidr\""), "{error}");
    }

    #[test]
    fn short_commands_take_from_the_servers_file_what_concerns_them() {
        let command = Cli::command();
        let [snapshot, server] = ["snapshot", "server"].map(|name| command.find_subcommand(name).unwrap());
        let read = |text: &str| entries(snapshot, Some(server), Path::new("config.yaml"), text);
        assert_eq!(read("demo: true\ns3: true\ns3-bucket: b\n").unwrap(), ["--s3=true", "--s3-bucket=b"]);
        assert!(read("s3-buket: b").unwrap_err().to_string().contains("\"s3-bucket\""));
    }

    #[test]
    fn a_list_at_the_top_or_a_nested_map_is_refused() {
        assert!(read("[a]").unwrap_err().to_string().contains("mapping"));
        assert!(read("token: {a: b}").unwrap_err().to_string().contains("token"));
    }
}
