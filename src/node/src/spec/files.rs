//! Texts a pod's files hold: `/etc/hosts`, `/etc/resolv.conf`, and its host name. Pure.

use k8s_openapi::api::core::v1::{HostAlias, Pod, PodSpec};

/// Linux's limit for a kernel host name.
const MAX_HOST_NAME: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum HostnameError {
    #[error(
        "failed to construct FQDN from Pod hostname and cluster domain, FQDN {fqdn} is too long \
         ({MAX_HOST_NAME} characters is the max, {length} characters requested)"
    )]
    TooLong { fqdn: String, length: usize },
}

/// The names a pod goes by.
#[derive(Debug, PartialEq, Eq)]
pub struct Hostname {
    /// What the kernel is told.
    pub kernel: String,
    /// The short name, for `/etc/hosts`.
    pub short: String,
    /// `subdomain.namespace.svc.cluster.local`, when the pod has a subdomain.
    pub domain: Option<String>,
}

/// Works out the pod's names.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> Result<Hostname, HostnameError> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    if let Some(name) = spec.hostname_override.as_deref().filter(|n| !n.is_empty()) {
        return Ok(Hostname { kernel: name.to_owned(), short: name.to_owned(), domain: None });
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let short = match spec.hostname.as_deref().filter(|h| !h.is_empty()) {
        Some(hostname) => hostname.to_owned(),
        // A pod's name may be longer than a DNS label.
        None => name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned(),
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = spec
        .subdomain
        .as_deref()
        .filter(|s| !s.is_empty())
        .map(|subdomain| format!("{subdomain}.{namespace}.svc.{cluster_domain}"));
    let kernel = match &domain {
        Some(domain) if spec.set_hostname_as_fqdn == Some(true) => {
            let fqdn = format!("{short}.{domain}");
            if fqdn.len() > MAX_HOST_NAME {
                let length = fqdn.len();
                return Err(HostnameError::TooLong { fqdn, length });
            }
            fqdn
        }
        _ => short.clone(),
    };
    Ok(Hostname { kernel, short, domain })
}

/// `/etc/hosts` of a pod with its own network.
pub fn hosts(ips: &[String], name: &Hostname, aliases: &[HostAlias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        let Hostname { short, domain, .. } = name;
        out.push_str(&match domain {
            Some(domain) => format!("{ip}\t{short}.{domain}\t{short}\n"),
            None => format!("{ip}\t{short}\n"),
        });
    }
    push_aliases(&mut out, aliases);
    out
}

/// `/etc/hosts` of a pod on the host's network: the host's own, marked, and the aliases.
pub fn host_network_hosts(host: &str, aliases: &[HostAlias]) -> String {
    let mut out = format!("# Kubernetes-managed hosts file (host network).\n{host}");
    push_aliases(&mut out, aliases);
    out
}

fn push_aliases(out: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    out.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        out.push_str(&format!("{}\t{names}\n", alias.ip));
    }
}

/// The lines of a resolver configuration that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads resolv.conf(5); the last `search` or `domain` wins.
    pub fn parse(text: &str) -> ResolvConf {
        let mut out = ResolvConf::default();
        for line in text.lines().map(str::trim) {
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_whitespace();
            let Some(keyword) = words.next() else { continue };
            let rest = words.map(str::to_owned);
            match keyword {
                "nameserver" => out.nameservers.extend(rest.take(1)),
                "search" | "domain" => out.searches = rest.filter(|s| s != ".").collect(),
                "options" => out.options.extend(rest),
                _ => {}
            }
        }
        out
    }

    pub fn render(&self) -> String {
        let mut out = String::new();
        if !self.searches.is_empty() {
            out.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            out.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        out
    }
}

/// Resolvers look at no more than so many.
const MAX_NAMESERVERS: usize = 3;

/// The cluster's resolver, as pods are told of it.
pub struct ClusterDns<'a> {
    pub servers: &'a [String],
    /// To be asked when none of them answers.
    pub spare: Option<&'a str>,
    pub domain: &'a str,
}

/// The resolver configuration for a pod's `dnsPolicy` and `dnsConfig`.
pub fn resolv_conf(pod: &Pod, dns: &ClusterDns<'_>, host: &ResolvConf) -> ResolvConf {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let host_network = spec.host_network == Some(true);
    let mut out = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => ResolvConf::default(),
        "ClusterFirstWithHostNet" => cluster_first(pod, dns, host),
        "ClusterFirst" if !host_network => cluster_first(pod, dns, host),
        _ => host.clone(),
    };
    let Some(config) = &spec.dns_config else { return out };
    extend_new(&mut out.nameservers, config.nameservers.as_deref());
    extend_new(&mut out.searches, config.searches.as_deref());
    for option in config.options.iter().flatten() {
        let Some(name) = option.name.as_deref() else { continue };
        out.options.retain(|o| o.split(':').next() != Some(name));
        out.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        });
    }
    out
}

fn cluster_first(pod: &Pod, dns: &ClusterDns<'_>, host: &ResolvConf) -> ResolvConf {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = dns.domain;
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    extend_new(&mut searches, Some(&host.searches));
    let mut nameservers = dns.servers.to_vec();
    let own = pod.spec.as_ref().and_then(|spec| spec.dns_config.as_ref()?.nameservers.as_ref());
    // After those it asks in order, and those of the pod's own are asked in any case.
    if nameservers.len() + own.map_or(0, Vec::len) < MAX_NAMESERVERS {
        nameservers.extend(dns.spare.map(str::to_owned));
    }
    ResolvConf { nameservers, searches, options: vec!["ndots:5".to_owned()] }
}

fn extend_new(list: &mut Vec<String>, more: Option<&[String]>) {
    for item in more.into_iter().flatten() {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    #[test]
    fn names_follow_hostname_and_subdomain() {
        let name = hostname(&pod(json!({})), "cluster.local").unwrap();
        assert_eq!(name, Hostname { kernel: "web-0".into(), short: "web-0".into(), domain: None });
        let spec = json!({"hostname": "h", "subdomain": "sub", "setHostnameAsFQDN": true});
        let name = hostname(&pod(spec), "cluster.local").unwrap();
        assert_eq!(name.kernel, "h.sub.ns.svc.cluster.local");
        assert_eq!(name.short, "h");
        let long = json!({"hostname": "h", "subdomain": "s".repeat(60), "setHostnameAsFQDN": true});
        assert!(hostname(&pod(long), "cluster.local").unwrap_err().to_string().contains("64 characters is the max"));
    }

    #[test]
    fn a_long_pod_name_is_cut_to_a_label() {
        let mut pod = pod(json!({}));
        pod.metadata.name = Some(format!("{}-{}", "a".repeat(62), "b".repeat(20)));
        assert_eq!(hostname(&pod, "c").unwrap().kernel, "a".repeat(62));
    }

    #[test]
    fn hosts_lists_addresses_and_aliases() {
        let name = Hostname { kernel: "h".into(), short: "h".into(), domain: Some("s.ns.svc.c".into()) };
        let alias = HostAlias { ip: "1.1.1.1".into(), hostnames: Some(vec!["a".into(), "b".into()]) };
        let text = hosts(&["10.42.0.5".into()], &name, &[alias]);
        assert!(text.contains("10.42.0.5\th.s.ns.svc.c\th\n"));
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.1.1.1\ta\tb\n"));
    }

    #[test]
    fn dns_policies() {
        let servers = ["10.43.0.10".to_owned()];
        let dns = ClusterDns { servers: &servers, spare: None, domain: "cluster.local" };
        let host = ResolvConf::parse("# x\nnameserver 9.9.9.9\nsearch corp.example\noptions timeout:1\n");
        let cluster = resolv_conf(&pod(json!({})), &dns, &host);
        assert_eq!(
            cluster.render(),
            "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
             nameserver 10.43.0.10\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&pod(json!({"hostNetwork": true})), &dns, &host), host);
        assert_eq!(resolv_conf(&pod(json!({"dnsPolicy": "Default"})), &dns, &host), host);
        let own = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.2.3.4"], "searches": ["a.b"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
        assert_eq!(
            resolv_conf(&pod(own), &dns, &host).render(),
            "search a.b\nnameserver 1.2.3.4\noptions ndots:2 edns0\n"
        );
        let mixed = json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}});
        assert_eq!(resolv_conf(&pod(mixed), &dns, &host).options, ["ndots:2"]);
    }

    #[test]
    fn the_spare_dns_server_comes_second_and_takes_no_place_of_a_pods_own() {
        let servers = ["10.43.0.10".to_owned()];
        let dns = ClusterDns { servers: &servers, spare: Some("169.254.20.11"), domain: "cluster.local" };
        let nameservers = |spec| resolv_conf(&pod(spec), &dns, &ResolvConf::default()).nameservers;
        assert_eq!(nameservers(json!({})), ["10.43.0.10", "169.254.20.11"]);
        let one = json!({"dnsConfig": {"nameservers": ["1.1.1.1"]}});
        assert_eq!(nameservers(one), ["10.43.0.10", "169.254.20.11", "1.1.1.1"]);
        let two = json!({"dnsConfig": {"nameservers": ["1.1.1.1", "2.2.2.2"]}});
        assert_eq!(nameservers(two), ["10.43.0.10", "1.1.1.1", "2.2.2.2"]);
        assert!(nameservers(json!({"dnsPolicy": "Default"})).is_empty());
    }
}
