//! Services and EndpointSlices → the cluster's DNS records, as the Kubernetes DNS specification (1.1.0) has them. Pure.
//! Names of pods follow from their addresses and need no record.

use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::dns::{Record, Zone};

use crate::services::endpoints::{self, Slices};

/// Builds the whole zone.
pub fn build(domain: &str, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Zone {
    let mut zone = Zone::new(domain);
    for entry in entries(domain, services, slices) {
        match entry {
            Entry::Name(name, record) => zone.add(&name, record),
            Entry::Reverse(ip, name) => zone.add_reverse(ip, &name),
        }
    }
    zone
}

/// One record of the zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Name(String, Record),
    /// The address, and the name it leads back to.
    Reverse(Ipv4Addr, String),
}

/// All records, service by service; some may come more than once.
pub fn entries(domain: &str, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Vec<Entry> {
    let slices = Slices::new(slices);
    let mut records = Records { entries: Vec::new(), domain };
    for service in services {
        records.service(service, slices.of(service));
    }
    records.entries
}

struct Records<'a> {
    entries: Vec<Entry>,
    domain: &'a str,
}

impl Records<'_> {
    fn add(&mut self, name: &str, record: Record) {
        self.entries.push(Entry::Name(name.to_owned(), record));
    }

    fn service(&mut self, service: &Service, slices: &[&EndpointSlice]) {
        let Some(spec) = service.spec.as_ref() else { return };
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let owner = format!("{name}.{namespace}.svc.{}", self.domain);
        if spec.type_.as_deref() == Some("ExternalName") {
            if let Some(target) = spec.external_name.as_deref().filter(|t| !t.is_empty()) {
                self.external(&owner, target);
            }
        } else if spec.cluster_ip.as_deref() == Some("None") {
            self.headless(&owner, slices);
        } else {
            self.virtual_address(&owner, spec);
        }
    }

    /// A name, or an address that somebody put where a name belongs.
    fn external(&mut self, owner: &str, target: &str) {
        let record = match target.parse() {
            Ok(ip) => Record::A(ip),
            Err(_) => Record::Cname(target.to_owned()),
        };
        self.add(owner, record);
    }

    fn virtual_address(&mut self, owner: &str, spec: &ServiceSpec) {
        let texts = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let mut addressed = false;
        for text in texts {
            if let Ok(ip) = text.parse::<Ipv4Addr>() {
                addressed = true;
                self.add(owner, Record::A(ip));
                self.entries.push(Entry::Reverse(ip, owner.to_owned()));
            } else if let Ok(ip) = text.parse() {
                addressed = true;
                self.add(owner, Record::Aaaa(ip));
            }
        }
        // Not allocated yet: no name either.
        for port in spec.ports.iter().flatten().filter(|_| addressed) {
            if let Ok(number) = u16::try_from(port.port) {
                self.srv(owner, port.name.as_deref(), port.protocol.as_deref(), number, owner);
            }
        }
    }

    /// A name for each ready endpoint; pods that are not ready are in only when the service publishes them, which the
    /// slices then tell as ready.
    fn headless(&mut self, owner: &str, slices: &[&EndpointSlice]) {
        for slice in slices {
            let endpoints = slice.endpoints.iter().flatten().filter(|e| endpoints::is_ready(e));
            for endpoint in endpoints {
                let Some(ip) = endpoints::address(endpoint) else { continue };
                let label = endpoint.hostname.clone().filter(|h| !h.is_empty());
                let label = label.unwrap_or_else(|| ip.to_string().replace('.', "-"));
                let host = format!("{label}.{owner}");
                self.add(owner, Record::A(ip));
                self.add(&host, Record::A(ip));
                self.entries.push(Entry::Reverse(ip, host.clone()));
                for port in slice.ports.iter().flatten() {
                    if let Some(number) = port.port.and_then(|p| u16::try_from(p).ok()) {
                        self.srv(owner, port.name.as_deref(), port.protocol.as_deref(), number, &host);
                    }
                }
            }
        }
    }

    /// Only named ports have one.
    fn srv(&mut self, owner: &str, port: Option<&str>, protocol: Option<&str>, number: u16, target: &str) {
        let Some(port) = port.filter(|p| !p.is_empty()) else { return };
        let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
        let record = Record::Srv { port: number, target: target.to_owned() };
        self.add(&format!("_{port}._{protocol}.{owner}"), record);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn records(spec: Value, endpoints: Value) -> Vec<String> {
        let service = json!({"metadata": {"namespace": "prod", "name": "db"}, "spec": spec});
        let slice = json!({"metadata": {"namespace": "prod", "name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432}], "endpoints": endpoints});
        let services = [Arc::new(serde_json::from_value(service).unwrap())];
        let slices = [Arc::new(serde_json::from_value(slice).unwrap())];
        let line = |entry| match entry {
            Entry::Reverse(ip, name) => format!("{ip} PTR {name}"),
            Entry::Name(name, Record::A(ip)) => format!("{name} A {ip}"),
            Entry::Name(name, Record::Aaaa(ip)) => format!("{name} AAAA {ip}"),
            Entry::Name(name, Record::Cname(target)) => format!("{name} CNAME {target}"),
            Entry::Name(name, Record::Srv { port, target }) => format!("{name} SRV {port} {target}"),
            Entry::Name(name, other) => format!("{name} {other:?}"),
        };
        entries("cluster.local", &services, &slices).into_iter().map(line).collect()
    }

    #[test]
    fn a_virtual_address_has_a_name_both_ways_and_its_named_ports() {
        let ports = json!([{"name": "sql", "port": 5432, "targetPort": 9}, {"port": 80}, {"name": "q", "port": 53, "protocol": "UDP"}]);
        let found = records(
            json!({"clusterIP": "10.43.7.1", "clusterIPs": ["10.43.7.1", "fd00::1"], "ports": ports}),
            json!([]),
        );
        for expected in [
            "db.prod.svc.cluster.local A 10.43.7.1",
            "db.prod.svc.cluster.local AAAA fd00::1",
            "10.43.7.1 PTR db.prod.svc.cluster.local",
            "_sql._tcp.db.prod.svc.cluster.local SRV 5432 db.prod.svc.cluster.local",
            "_q._udp.db.prod.svc.cluster.local SRV 53 db.prod.svc.cluster.local",
        ] {
            assert!(found.contains(&expected.to_owned()), "{expected} in {found:#?}");
        }
        assert!(!found.iter().any(|r| r.contains(" SRV 80 ")), "{found:#?}");
    }

    #[test]
    fn a_headless_service_names_each_ready_endpoint() {
        let endpoints = json!([
            {"addresses": ["10.42.0.7"], "hostname": "db-0"},
            {"addresses": ["10.42.0.8"], "conditions": {"ready": true}},
            {"addresses": ["10.42.0.9"], "conditions": {"ready": false}},
        ]);
        let found = records(json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 1}]}), endpoints);
        for expected in [
            "db.prod.svc.cluster.local A 10.42.0.7",
            "db.prod.svc.cluster.local A 10.42.0.8",
            "db-0.db.prod.svc.cluster.local A 10.42.0.7",
            "10-42-0-8.db.prod.svc.cluster.local A 10.42.0.8",
            "10.42.0.7 PTR db-0.db.prod.svc.cluster.local",
            "_sql._tcp.db.prod.svc.cluster.local SRV 5432 db-0.db.prod.svc.cluster.local",
        ] {
            assert!(found.contains(&expected.to_owned()), "{expected} in {found:#?}");
        }
        assert!(!found.iter().any(|r| r.contains("10.42.0.9")), "{found:#?}");
    }

    #[test]
    fn an_external_name_is_an_alias() {
        let found = records(json!({"type": "ExternalName", "externalName": "db.example.org"}), json!([]));
        assert_eq!(found, ["db.prod.svc.cluster.local CNAME db.example.org"]);
    }

    #[test]
    fn a_service_without_address_has_no_name() {
        assert!(records(json!({"ports": [{"name": "sql", "port": 1}]}), json!([])).is_empty());
    }
}
