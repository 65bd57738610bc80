//! Network policies.

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::columns::{self, Column};
use crate::defaults::fill;
use crate::field::{Errors, Path};
use crate::names;
use crate::strategy::typed::{Generation, Rules};
use crate::validation::{check, labels, one_of, pod, shown};

pub struct NetworkPolicyRules;

impl Rules for NetworkPolicyRules {
    type Object = NetworkPolicy;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::network::NETWORK_POLICY;

    fn default(policy: &mut NetworkPolicy) {
        let spec = policy.spec.get_or_insert_default();
        spec.pod_selector.get_or_insert_default();
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let mut types = vec!["Ingress".to_owned()];
            if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
                types.push("Egress".to_owned());
            }
            spec.policy_types = Some(types);
        }
        let ingress = spec.ingress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten());
        let egress = spec.egress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten());
        ingress.chain(egress).for_each(|port| fill(&mut port.protocol, "TCP"));
    }

    fn validate(policy: &NetworkPolicy, errors: &mut Errors) {
        let default = NetworkPolicySpec::default();
        let spec = policy.spec.as_ref().unwrap_or(&default);
        let path = &Path::root("spec");
        labels::selector(errors, &path.child("podSelector"), spec.pod_selector.as_ref());
        let ingress = path.child("ingress");
        for (n, rule) in spec.ingress.iter().flatten().enumerate() {
            let path = ingress.index(n);
            ports(errors, &path.child("ports"), rule.ports.as_deref().unwrap_or_default());
            peers(errors, &path.child("from"), rule.from.as_deref().unwrap_or_default());
        }
        let egress = path.child("egress");
        for (n, rule) in spec.egress.iter().flatten().enumerate() {
            let path = egress.index(n);
            ports(errors, &path.child("ports"), rule.ports.as_deref().unwrap_or_default());
            peers(errors, &path.child("to"), rule.to.as_deref().unwrap_or_default());
        }
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let path = path.child("policyTypes");
        if types.len() > 2 {
            return errors.invalid(&path, shown(&types), "may not specify more than two policyTypes");
        }
        for (n, kind) in types.iter().enumerate() {
            one_of(errors, &path.index(n), kind, &["Egress", "Ingress"]);
        }
    }

    fn cells(policy: &NetworkPolicy, now: Timestamp) -> Vec<Value> {
        columns::network::network_policy(policy, now)
    }
}

fn ports(errors: &mut Errors, path: &Path<'_>, ports: &[NetworkPolicyPort]) {
    for (n, item) in ports.iter().enumerate() {
        let path = path.index(n);
        let protocol = item.protocol.as_deref().unwrap_or_default();
        one_of(errors, &path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        if let Some(number) = &item.port {
            pod::port(errors, &path.child("port"), number);
        }
        let Some(end) = item.end_port else { continue };
        match &item.port {
            None => errors.required(&path.child("endPort"), "may not be specified when `port` is not specified"),
            Some(IntOrString::String(_)) => {
                errors.invalid(&path.child("endPort"), end, "may not be specified when `port` is non-numeric");
            }
            Some(IntOrString::Int(start)) if end < *start => {
                errors.invalid(&path.child("endPort"), end, "must be greater than or equal to `port`");
            }
            Some(IntOrString::Int(_)) => {
                for message in names::port_number(end) {
                    errors.invalid(&path.child("endPort"), end, &message);
                }
            }
        }
    }
}

fn peers(errors: &mut Errors, path: &Path<'_>, peers: &[NetworkPolicyPeer]) {
    for (n, peer) in peers.iter().enumerate() {
        let path = &path.index(n);
        labels::selector(errors, &path.child("podSelector"), peer.pod_selector.as_ref());
        labels::selector(errors, &path.child("namespaceSelector"), peer.namespace_selector.as_ref());
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match &peer.ip_block {
            None if !selects => errors.required(path, "must specify a peer"),
            Some(_) if selects => errors.forbidden(path, "may not specify both ipBlock and another peer"),
            Some(block) => ip_block(errors, &path.child("ipBlock"), &block.cidr, block.except.as_deref()),
            None => {}
        }
    }
}

fn ip_block(errors: &mut Errors, path: &Path<'_>, cidr: &str, except: Option<&[String]>) {
    if cidr.is_empty() {
        return errors.required(&path.child("cidr"), "");
    }
    let Ok(net) = cidr.parse::<IpNet>() else {
        return check(errors, &path.child("cidr"), cidr, names::cidr(cidr));
    };
    let path = path.child("except");
    for (n, text) in except.unwrap_or_default().iter().enumerate() {
        match text.parse::<IpNet>() {
            Err(_) => check(errors, &path.index(n), text, names::cidr(text)),
            Ok(inner) if !net.contains(&inner) || net.prefix_len() >= inner.prefix_len() => {
                errors.invalid(&path.index(n), text, "must be a strict subset of `cidr`");
            }
            Ok(_) => {}
        }
    }
}
