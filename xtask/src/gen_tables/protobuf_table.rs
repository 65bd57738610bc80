//! `protobuf.txt`: how each message's fields are numbered and typed, under their JSON names.

use std::fmt::Write as _;

use super::go::Go;
use super::proto::Messages;

const HEADER: &str = "\
# Protobuf field numbers of the Kubernetes API v1.36: facts only. Written by `cargo xtask gen-tables`; do not edit.
# From: k8s.io/api, apimachinery, apiextensions-apiserver and kube-aggregator v0.36.0.
#
# @<definition>                     a message; its fields follow, by number
# <json name> <number> <type> [flags]
# type:  string bool int32 int64 double bytes  *<definition> message  []T repeated (never packed)  {}T map<string, T>
# json name `-`: the message is an embedded struct, its fields stand directly in the parent's JSON object
# flags: p  a pointer in Go: presence is meaningful, a zero that was sent is kept
#        o  omitempty: a zero (\"\" 0 false, empty list or map) is left out of JSON
#        neither: JSON always has the field, zero or not
# No entry says how Time, MicroTime, Duration, Quantity, IntOrString, FieldsV1, RawExtension, JSON, JSONSchemaPropsOr*
# and one-field list messages (ExtraValue, Verbs: `items` = 1) look in JSON: a codec knows them by name.
";

pub(super) fn render(messages: &Messages, go: &Go) -> anyhow::Result<String> {
    let mut out = HEADER.to_owned();
    for (name, fields) in messages {
        writeln!(out, "@{name}")?;
        let mut fields: Vec<_> = fields.iter().collect();
        fields.sort_by_key(|f| f.tag);
        for field in fields {
            let known = go.by_tag(name, field.tag);
            let json = match known {
                Some(f) if f.inline => "-",
                Some(f) if f.json != "-" => &f.json,
                _ => &field.name,
            };
            write!(out, "{json} {} {}", field.tag, field.ty)?;
            if known.is_some_and(|f| f.pointer) {
                out.push_str(" p");
            }
            if known.is_some_and(|f| f.omit_empty) {
                out.push_str(" o");
            }
            out.push('\n');
        }
    }
    Ok(out)
}
