//! Ingresses and ingress classes.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressClass, IngressRule, IngressSpec,
};
use serde_json::Value;

use crate::columns::{self, Column};
use crate::defaults::fill;
use crate::field::{Errors, Path};
use crate::names;
use crate::strategy::typed::{Generation, Rules, StatusPolicy};
use crate::validation::{check, immutable, one_of, shown, text};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub struct IngressRules;

impl Rules for IngressRules {
    type Object = Ingress;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::network::INGRESS;

    fn default(ingress: &mut Ingress) {
        ingress.status.get_or_insert_default().load_balancer.get_or_insert_default();
    }

    fn validate(ingress: &Ingress, errors: &mut Errors) {
        let default = IngressSpec::default();
        spec(errors, &Path::root("spec"), ingress.spec.as_ref().unwrap_or(&default));
    }

    fn validate_create(ingress: &Ingress, errors: &mut Errors) {
        let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
        let annotated = ingress.metadata.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION));
        if let (Some(_), Some(annotated)) = (class, annotated) {
            let path = Path::root("annotations");
            let detail = "can not be set when the class field is also set";
            errors.invalid(&path.child(CLASS_ANNOTATION), annotated, detail);
        }
        Self::validate(ingress, errors);
    }

    fn cells(ingress: &Ingress, now: Timestamp) -> Vec<Value> {
        columns::network::ingress(ingress, now)
    }
}

fn spec(errors: &mut Errors, path: &Path<'_>, spec: &IngressSpec) {
    let rules = spec.rules.as_deref().unwrap_or_default();
    match &spec.default_backend {
        Some(backend) => self::backend(errors, &path.child("defaultBackend"), backend),
        None if rules.is_empty() => {
            errors.invalid(path, shown(&rules), "either `defaultBackend` or `rules` must be specified");
        }
        None => {}
    }
    let rules_path = path.child("rules");
    for (n, item) in rules.iter().enumerate() {
        rule(errors, &rules_path.index(n), item);
    }
    let tls_path = path.child("tls");
    for (n, tls) in spec.tls.iter().flatten().enumerate() {
        let path = tls_path.index(n);
        let hosts = path.child("hosts");
        for (n, host) in tls.hosts.iter().flatten().enumerate() {
            host_name(errors, &hosts.index(n), host);
        }
        let secret = text(tls.secret_name.as_ref());
        if !secret.is_empty() {
            check(errors, &path.child("secretName"), secret, names::dns1123_subdomain(secret));
        }
    }
    if let Some(class) = &spec.ingress_class_name {
        check(errors, &path.child("ingressClassName"), class, names::dns1123_subdomain(class));
    }
}

fn host_name(errors: &mut Errors, path: &Path<'_>, host: &str) {
    if host.contains('*') {
        check(errors, path, host, names::wildcard_subdomain(host));
    } else {
        check(errors, path, host, names::dns1123_subdomain(host));
    }
}

fn rule(errors: &mut Errors, path: &Path<'_>, rule: &IngressRule) {
    let host = text(rule.host.as_ref());
    if !host.is_empty() {
        if host.parse::<IpAddr>().is_ok() {
            errors.invalid(&path.child("host"), host, "must be a DNS name, not an IP address");
        }
        host_name(errors, &path.child("host"), host);
    }
    let Some(http) = &rule.http else { return };
    let path = &path.child("http.paths");
    if http.paths.is_empty() {
        errors.required(path, "");
    }
    for (n, item) in http.paths.iter().enumerate() {
        http_path(errors, &path.index(n), item);
    }
}

fn http_path(errors: &mut Errors, path: &Path<'_>, item: &HTTPIngressPath) {
    let target = text(item.path.as_ref());
    let target_path = &path.child("path");
    match item.path_type.as_str() {
        "" => errors.required(&path.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !target.starts_with('/') {
                errors.invalid(target_path, target, "must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| target.contains(**part)) {
                errors.invalid(target_path, target, &format!("must not contain '{part}'"));
            }
            for end in ["/..", "/."].iter().filter(|end| target.ends_with(**end)) {
                errors.invalid(target_path, target, &format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" if !target.is_empty() && !target.starts_with('/') => {
            errors.invalid(target_path, target, "must be an absolute path");
        }
        kind => one_of(errors, &path.child("pathType"), kind, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(errors, &path.child("backend"), &item.backend);
}

fn backend(errors: &mut Errors, path: &Path<'_>, backend: &IngressBackend) {
    match (&backend.service, &backend.resource) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (None, None) => errors.required(path, "resource or service backend is required"),
        (None, Some(resource)) => {
            let path = path.child("resource");
            for (field, value) in [("kind", &resource.kind), ("name", &resource.name)] {
                if value.is_empty() {
                    errors.required(&path.child(field), "");
                }
            }
        }
        (Some(service), None) => {
            let path = path.child("service");
            match service.name.as_str() {
                "" => errors.required(&path.child("name"), ""),
                name => check(errors, &path.child("name"), name, names::dns1035_label(name)),
            }
            let port = service.port.clone().unwrap_or_default();
            let (name, number) = (text(port.name.as_ref()), port.number.unwrap_or(0));
            match (name, number) {
                ("", 0) => errors.required(&path, "port name or number is required"),
                ("", number) => {
                    for message in names::port_number(number) {
                        errors.invalid(&path.child("port.number"), number, &message);
                    }
                }
                (_, 0) => check(errors, &path.child("port.name"), name, names::port_name(name)),
                _ => errors.invalid(&path, "", "cannot set both port name & port number"),
            }
        }
    }
}

pub struct IngressClassRules;

impl Rules for IngressClassRules {
    type Object = IngressClass;
    const GENERATION: Generation = Generation::Spec;
    const COLUMNS: &'static [Column] = columns::network::INGRESS_CLASS;

    fn default(class: &mut IngressClass) {
        if let Some(parameters) = class.spec.as_mut().and_then(|spec| spec.parameters.as_mut()) {
            fill(&mut parameters.scope, "Cluster");
        }
    }

    fn validate(class: &IngressClass, errors: &mut Errors) {
        let spec = class.spec.clone().unwrap_or_default();
        let path = Path::root("spec");
        let controller = text(spec.controller.as_ref());
        let path_of_controller = path.child("controller");
        match controller.split_once('/') {
            _ if controller.is_empty() => errors.required(&path_of_controller, ""),
            None => {
                errors.invalid(
                    &path_of_controller,
                    controller,
                    "must be a domain-prefixed path (such as \"acme.io/foo\")",
                );
            }
            Some((domain, _)) => check(errors, &path_of_controller, domain, names::dns1123_subdomain(domain)),
        }
        if controller.len() > 250 {
            errors.too_long(&path_of_controller, 250);
        }
        let Some(parameters) = &spec.parameters else { return };
        let path = path.child("parameters");
        let scope = text(parameters.scope.as_ref());
        one_of(errors, &path.child("scope"), scope, &["Cluster", "Namespace"]);
        match (scope, &parameters.namespace) {
            ("Namespace", None) => {
                errors.required(&path.child("namespace"), "`parameters.scope` is set to 'Namespace'");
            }
            ("Cluster", Some(_)) => {
                errors.forbidden(&path.child("namespace"), "`parameters.scope` is set to 'Cluster'");
            }
            _ => {}
        }
    }

    fn validate_update(new: &IngressClass, old: &IngressClass, errors: &mut Errors) {
        Self::validate(new, errors);
        let controller = |class: &IngressClass| class.spec.as_ref().and_then(|spec| spec.controller.clone());
        immutable(errors, &Path::root("spec").child("controller"), &controller(new), &controller(old));
    }

    fn cells(class: &IngressClass, now: Timestamp) -> Vec<Value> {
        columns::network::ingress_class(class, now)
    }
}
