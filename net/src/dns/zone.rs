//! The cluster's records, by owner name. Pure data, built by the caller and swapped in whole.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};

/// One record's data. Names are absolute, with or without the trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv { port: u16, target: String },
    Ptr(String),
    Cname(String),
    Txt(String),
}

/// All records of the cluster domain, and the reverse names of its addresses.
#[derive(Clone, Debug)]
pub struct Zone {
    domain: String,
    records: HashMap<String, Vec<Record>>,
    /// Names with something below them: they answer "no data", not "no such name".
    parents: HashSet<String>,
}

impl Zone {
    /// An empty zone for `domain` (`cluster.local`).
    pub fn new(domain: &str) -> Self {
        Self { domain: normal(domain), records: HashMap::new(), parents: HashSet::new() }
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Adds a record under an absolute name (`web.default.svc.cluster.local`). A record twice is kept once.
    pub fn add(&mut self, name: &str, record: Record) {
        let name = normal(name);
        let mut rest = name.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            if !self.parents.insert(parent.to_owned()) {
                break;
            }
            rest = parent;
        }
        let records = self.records.entry(name).or_default();
        if !records.contains(&record) {
            records.push(record);
        }
    }

    /// Adds the reverse name of `ip`, pointing at `name`.
    pub fn add_reverse(&mut self, ip: Ipv4Addr, name: &str) {
        let [a, b, c, d] = ip.octets();
        self.add(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"), Record::Ptr(name.to_owned()));
    }
}

/// The form names are kept and compared in: lower case, no trailing dot.
fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}
