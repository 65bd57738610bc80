//! A container's environment: `env`, `envFrom`, service variables, and the expanded command. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use super::expand::expand;
use super::fields::{self, Addresses, Allocatable, FieldError};

/// Why the environment can't be made; the container waits with `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoConfigMapKey { namespace: String, name: String, key: String },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    NoSecretKey { namespace: String, name: String, key: String },
    #[error("key {key} of Secret {namespace}/{name} is not valid UTF-8, which a variable must be")]
    NotText { namespace: String, name: String, key: String },
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("variable {0} has a source this node does not support")]
    Unsupported(String),
}

/// The objects a pod's containers may take variables from, fetched beforehand; absent ones do not exist.
#[derive(Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, std::sync::Arc<ConfigMap>>,
    pub secrets: BTreeMap<String, std::sync::Arc<Secret>>,
}

/// What the environment is computed from.
pub struct EnvInput<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub sources: &'a Sources,
    pub service_env: &'a BTreeMap<String, String>,
    pub addresses: &'a Addresses,
    pub allocatable: &'a Allocatable,
}

/// The names of the ConfigMaps and Secrets that `container` takes variables from.
pub fn references(container: &Container) -> (Vec<&str>, Vec<&str>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.as_str()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.as_str()));
    }
    for source in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.as_str()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.as_str()));
    }
    (maps, secrets)
}

/// The variables, sorted by name. Later sources win: service variables, `envFrom` in order, `env` in order.
pub fn environment(input: &EnvInput<'_>) -> Result<BTreeMap<String, String>, EnvError> {
    let mut own = env_from(input)?;
    for variable in input.container.env.iter().flatten() {
        let value = match (variable.value.as_deref().filter(|v| !v.is_empty()), &variable.value_from) {
            (Some(text), _) => {
                Some(expand(text, |n| own.get(n).or_else(|| input.service_env.get(n)).map(String::as_str)))
            }
            (None, Some(source)) => value_from(input, &variable.name, source)?,
            (None, None) => Some(String::new()),
        };
        // An optional source that is absent leaves the name as the earlier sources have it.
        if let Some(value) = value {
            own.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in input.service_env {
        own.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Ok(own)
}

fn namespace(input: &EnvInput<'_>) -> String {
    input.pod.metadata.namespace.clone().unwrap_or_default()
}

fn env_from(input: &EnvInput<'_>) -> Result<BTreeMap<String, String>, EnvError> {
    let mut out = BTreeMap::new();
    for from in input.container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match input.sources.config_maps.get(&reference.name) {
                Some(map) => {
                    let data = map.data.iter().flatten().filter(|(k, _)| is_variable_name(k));
                    out.extend(data.map(|(k, v)| (format!("{prefix}{k}"), v.clone())));
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match input.sources.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten().filter(|(k, _)| is_variable_name(k)) {
                        let value = text(input, &reference.name, key, &value.0)?;
                        out.insert(format!("{prefix}{key}"), value);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(reference.name.clone())),
            }
        }
    }
    Ok(out)
}

/// Any printable ASCII but `=` may be in a variable's name.
fn is_variable_name(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

fn text(input: &EnvInput<'_>, name: &str, key: &str, bytes: &[u8]) -> Result<String, EnvError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(EnvError::NotText { namespace: namespace(input), name: name.to_owned(), key: key.to_owned() }),
    }
}

fn value_from(input: &EnvInput<'_>, variable: &str, source: &EnvVarSource) -> Result<Option<String>, EnvError> {
    if let Some(reference) = &source.field_ref {
        return Ok(Some(fields::field(input.pod, input.addresses, &reference.field_path)?));
    }
    if let Some(reference) = &source.resource_field_ref {
        return Ok(Some(fields::resource(input.pod, Some(input.container), reference, input.allocatable)?));
    }
    if let Some(reference) = &source.config_map_key_ref {
        let map = input.sources.config_maps.get(&reference.name);
        let value = map.and_then(|m| m.data.as_ref()).and_then(|d| d.get(&reference.key)).cloned();
        return match (value, map, reference.optional == Some(true)) {
            (Some(value), ..) => Ok(Some(value)),
            (None, _, true) => Ok(None),
            (None, None, _) => Err(EnvError::NoConfigMap(reference.name.clone())),
            (None, Some(_), _) => Err(EnvError::NoConfigMapKey {
                namespace: namespace(input),
                name: reference.name.clone(),
                key: reference.key.clone(),
            }),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let secret = input.sources.secrets.get(&reference.name);
        let value = secret.and_then(|s| s.data.as_ref()).and_then(|d| d.get(&reference.key));
        return match (value, secret, reference.optional == Some(true)) {
            (Some(value), ..) => Ok(Some(text(input, &reference.name, &reference.key, &value.0)?)),
            (None, _, true) => Ok(None),
            (None, None, _) => Err(EnvError::NoSecret(reference.name.clone())),
            (None, Some(_), _) => Err(EnvError::NoSecretKey {
                namespace: namespace(input),
                name: reference.name.clone(),
                key: reference.key.clone(),
            }),
        };
    }
    Err(EnvError::Unsupported(variable.to_owned()))
}

/// Command and arguments, expanded, laid over the image's entrypoint and command.
///
/// `command` replaces both of the image's; `args` alone replaces the image's command.
pub fn arguments(
    container: &Container,
    env: &BTreeMap<String, String>,
    entrypoint: &[String],
    image_command: &[String],
) -> Vec<String> {
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|a| expand(a, |n| env.get(n).map(String::as_str))).collect()
    };
    let command = expanded(&container.command);
    let args = expanded(&container.args);
    match (command.is_empty(), args.is_empty()) {
        (false, _) => command.into_iter().chain(args).collect(),
        (true, false) => entrypoint.iter().cloned().chain(args).collect(),
        (true, true) => entrypoint.iter().chain(image_command).cloned().collect(),
    }
}

/// Docker-link style variables for the services a pod can see: those of its namespace when it wants them, and
/// always the API server's.
pub fn service_variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    pod_namespace: &str,
    enable_links: bool,
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for service in services {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let master = namespace == "default" && name == "kubernetes";
        if master || (enable_links && namespace == pod_namespace) {
            add_service(&mut out, name, service);
        }
    }
    out
}

fn add_service(out: &mut BTreeMap<String, String>, name: &str, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| ip.parse::<IpAddr>().is_ok()) else { return };
    let Some(ports) = spec.ports.as_deref().filter(|p| !p.is_empty()) else { return };
    let prefix = variable_prefix(name);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    out.insert(format!("{prefix}_SERVICE_PORT"), ports[0].port.to_string());
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_ascii_lowercase();
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            out.insert(format!("{prefix}_SERVICE_PORT_{}", variable_prefix(port_name)), port.port.to_string());
        }
        let url = format!("{lower}://{host}:{}", port.port);
        if index == 0 {
            out.insert(format!("{prefix}_PORT"), url.clone());
        }
        let base = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_ascii_uppercase());
        out.insert(format!("{base}_PROTO"), lower);
        out.insert(format!("{base}_PORT"), port.port.to_string());
        out.insert(format!("{base}_ADDR"), ip.to_owned());
        out.insert(base, url);
    }
}

fn variable_prefix(name: &str) -> String {
    name.to_ascii_uppercase().replace(['-', '.'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(container: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [container]}
        }))
        .unwrap()
    }

    fn sources() -> Sources {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "v", "bad=": "x"}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"s": "czNjcmV0"}})).unwrap();
        Sources {
            config_maps: [("cm".to_owned(), std::sync::Arc::new(map))].into(),
            secrets: [("sec".to_owned(), std::sync::Arc::new(secret))].into(),
        }
    }

    fn compute(container: serde_json::Value, service: &[(&str, &str)]) -> Result<BTreeMap<String, String>, EnvError> {
        let pod = pod(container);
        environment(&EnvInput {
            pod: &pod,
            container: &pod.spec.as_ref().unwrap().containers[0],
            sources: &sources(),
            service_env: &service.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            addresses: &Addresses::default(),
            allocatable: &Allocatable::default(),
        })
    }

    #[test]
    fn env_overrides_env_from_and_expands_earlier_names() {
        let env = compute(
            json!({"name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "sec"}}],
            "env": [
                {"name": "A", "value": "$(P_k)-$(SVC)-$(LATER)"},
                {"name": "s", "value": "mine"},
                {"name": "LATER", "value": "$(A)"},
                {"name": "EMPTY"},
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "OPT", "valueFrom": {"secretKeyRef": {"name": "none", "key": "x", "optional": true}}}
            ]}),
            &[("SVC", "svc")],
        )
        .unwrap();
        assert_eq!(env["A"], "v-svc-$(LATER)");
        assert_eq!(env["LATER"], "v-svc-$(LATER)");
        assert_eq!(env["s"], "mine");
        assert_eq!(env["NAME"], "p");
        assert_eq!(env["SVC"], "svc");
        assert_eq!(env["EMPTY"], "");
        assert!(!env.contains_key("OPT") && !env.contains_key("P_bad="));
    }

    #[test]
    fn missing_sources_are_named_as_upstream_words_it() {
        let message = |source: serde_json::Value| {
            compute(json!({"name": "c", "env": [{"name": "A", "valueFrom": source}]}), &[]).unwrap_err().to_string()
        };
        assert_eq!(message(json!({"configMapKeyRef": {"name": "x", "key": "k"}})), "configmap \"x\" not found");
        assert_eq!(
            message(json!({"configMapKeyRef": {"name": "cm", "key": "zz"}})),
            "couldn't find key zz in ConfigMap ns/cm"
        );
        assert_eq!(
            message(json!({"secretKeyRef": {"name": "sec", "key": "zz"}})),
            "couldn't find key zz in Secret ns/sec"
        );
        let from = compute(json!({"name": "c", "envFrom": [{"secretRef": {"name": "no"}}]}), &[]).unwrap_err();
        assert_eq!(from.to_string(), "secret \"no\" not found");
    }

    #[test]
    fn command_and_args_replace_the_image_ones() {
        let env = BTreeMap::from([("X".to_owned(), "1".to_owned())]);
        let args = |command: &[&str], args: &[&str]| {
            let own = |l: &[&str]| Some(l.iter().map(|s| (*s).to_owned()).collect());
            let container = Container { command: own(command), args: own(args), ..Container::default() };
            arguments(&container, &env, &["/entry".to_owned()], &["cmd".to_owned()])
        };
        assert_eq!(args(&[], &[]), ["/entry", "cmd"]);
        assert_eq!(args(&[], &["$(X)"]), ["/entry", "1"]);
        assert_eq!(args(&["/c"], &[]), ["/c"]);
        assert_eq!(args(&["/c"], &["$(Y)"]), ["/c", "$(Y)"]);
    }

    #[test]
    fn services_become_link_variables() {
        let service = |ns: &str, name: &str, ip: &str| -> Service {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": ns},
                "spec": {"clusterIP": ip, "ports": [{"port": 443, "name": "https"}, {"port": 53, "protocol": "UDP"}]}}))
            .unwrap()
        };
        let all = [
            service("default", "kubernetes", "10.43.0.1"),
            service("ns", "my-db", "10.43.0.9"),
            service("ns", "headless", "None"),
            service("other", "x", "10.43.0.8"),
        ];
        let env = service_variables(&all, "ns", true);
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.43.0.1");
        assert_eq!(env["MY_DB_SERVICE_PORT_HTTPS"], "443");
        assert_eq!(env["MY_DB_PORT"], "tcp://10.43.0.9:443");
        assert_eq!(env["MY_DB_PORT_53_UDP"], "udp://10.43.0.9:53");
        assert!(!env.contains_key("X_SERVICE_HOST") && !env.contains_key("HEADLESS_SERVICE_HOST"));
        let bare = service_variables(&all, "ns", false);
        assert!(bare.contains_key("KUBERNETES_PORT") && !bare.contains_key("MY_DB_PORT"));
    }
}
