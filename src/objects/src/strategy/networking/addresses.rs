//! Service CIDRs and IP addresses.

use jiff::Timestamp;
use k8s_openapi::api::networking::{v1, v1beta1};
use serde_json::Value;

use crate::columns::{self, Column};
use crate::field::{Errors, Path};
use crate::names::{self, Messages, NameRule};
use crate::strategy::typed::{Generation, Rules, StatusPolicy};
use crate::validation::{check, immutable};

/// Names of IP addresses are the addresses themselves, in canonical form.
fn ip_name(name: &str, _prefix: bool) -> Messages {
    match name.parse::<std::net::IpAddr>() {
        Ok(ip) if ip.to_string() == name => Messages::new(),
        _ => vec!["must be a valid IP address in canonical form".to_owned()],
    }
}

fn cidrs(errors: &mut Errors, cidrs: &[String]) {
    let path = Path::root("spec");
    let path = path.child("cidrs");
    if cidrs.is_empty() {
        errors.required(&path, "at least one CIDR required");
    }
    for (n, cidr) in cidrs.iter().enumerate() {
        check(errors, &path.index(n), cidr, names::cidr(cidr));
    }
}

macro_rules! address_kinds {
    ($version:ident, $cidr:ident, $address:ident) => {
        pub struct $cidr;

        impl Rules for $cidr {
            type Object = $version::ServiceCIDR;
            const STATUS: StatusPolicy = StatusPolicy::Own;
            const GENERATION: Generation = Generation::Spec;
            const COLUMNS: &'static [Column] = columns::network::SERVICE_CIDR;

            fn validate(range: &$version::ServiceCIDR, errors: &mut Errors) {
                let list = range.spec.as_ref().and_then(|spec| spec.cidrs.as_deref());
                cidrs(errors, list.unwrap_or_default());
            }

            fn cells(range: &$version::ServiceCIDR, now: Timestamp) -> Vec<Value> {
                let list = range.spec.as_ref().and_then(|spec| spec.cidrs.as_ref());
                columns::network::service_cidr(&range.metadata, list, now)
            }
        }

        pub struct $address;

        impl Rules for $address {
            type Object = $version::IPAddress;
            const GENERATION: Generation = Generation::Spec;
            const NAMES: NameRule = ip_name;
            const COLUMNS: &'static [Column] = columns::network::IP_ADDRESS;

            fn validate(address: &$version::IPAddress, errors: &mut Errors) {
                let path = Path::root("spec");
                let path = path.child("parentRef");
                let parent = &address.spec.parent_ref;
                for (field, value) in [("resource", &parent.resource), ("name", &parent.name)] {
                    if value.is_empty() {
                        errors.required(&path.child(field), "");
                    }
                }
            }

            fn validate_update(new: &$version::IPAddress, old: &$version::IPAddress, errors: &mut Errors) {
                let path = Path::root("spec");
                immutable(errors, &path.child("parentRef"), &new.spec.parent_ref, &old.spec.parent_ref);
            }

            fn cells(address: &$version::IPAddress, _now: Timestamp) -> Vec<Value> {
                let parent = &address.spec.parent_ref;
                let [group, namespace] =
                    [&parent.group, &parent.namespace].map(|text| text.as_deref().unwrap_or_default());
                let parent = Some([group, &parent.resource, namespace, &parent.name]);
                columns::network::ip_address(&address.metadata, parent)
            }
        }
    };
}

address_kinds!(v1, ServiceCidrRules, IpAddressRules);
address_kinds!(v1beta1, ServiceCidrBetaRules, IpAddressBetaRules);
