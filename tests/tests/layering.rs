//! Who may depend on whom (ARCHITECTURE.md), read from the manifests.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const CRATES: &[(&str, &str)] = &[
    ("rk", "src/rk"),
    ("objects", "src/objects"),
    ("apiserver", "src/apiserver"),
    ("client", "src/client"),
    ("controllers", "src/controllers"),
    ("scheduler", "src/scheduler"),
    ("node", "src/node"),
    ("pki", "src/pki"),
    ("storage", "storage"),
    ("runtime", "runtime"),
    ("net", "net"),
    ("embedded", "embedded"),
];

/// Names of dependencies, without those for tests.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace");
    let manifest = fs::read_to_string(root.join(folder).join("Cargo.toml")).expect("read a manifest");
    let section = manifest.split("[dependencies]").nth(1).expect("a manifest has dependencies");
    section
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn users_of(dependency: &str) -> Vec<&'static str> {
    CRATES.iter().filter(|(_, folder)| dependencies(folder).contains(dependency)).map(|(name, _)| *name).collect()
}

#[test]
fn only_the_api_server_and_the_executable_know_the_store() {
    assert_eq!(users_of("storage"), ["rk", "apiserver"]);
}

#[test]
fn only_the_node_and_the_executable_know_runtime_and_network() {
    assert_eq!(users_of("runtime"), ["rk", "node"]);
    assert_eq!(users_of("net"), ["rk", "node"]);
}

#[test]
fn components_see_the_api_through_the_client_alone() {
    assert_eq!(users_of("apiserver"), ["rk"]);
    for component in ["controllers", "scheduler", "node"] {
        assert!(users_of("client").contains(&component), "{component} uses the client");
        assert_eq!(users_of(component), ["rk"], "only the executable wires {component}");
    }
}

#[test]
fn the_lower_crates_know_no_kubernetes_and_nothing_of_each_other() {
    let lower = ["storage", "runtime", "net", "embedded"];
    let upper = ["k8s-openapi", "kube", "objects", "client", "apiserver", "node", "controllers", "scheduler"];
    for crate_name in lower {
        let folder = CRATES.iter().find(|(name, _)| *name == crate_name).expect("listed").1;
        let known = dependencies(folder);
        for banned in upper.iter().chain(&lower) {
            assert!(!known.contains(*banned), "{crate_name} must not depend on {banned}");
        }
    }
}

#[test]
fn pure_knowledge_has_no_runtime() {
    let known = dependencies("src/objects");
    for banned in ["tokio", "hyper", "kube", "nix", "libc"] {
        assert!(!known.contains(banned), "objects must not depend on {banned}");
    }
}
