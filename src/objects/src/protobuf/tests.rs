//! Round trips, and bytes checked against the wire format by hand.

use super::*;
use serde_json::json;

#[test]
fn a_pod_comes_back_as_it_was() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "d", "labels": {"a": "b", "c": ""}, "creationTimestamp": "2026-01-02T03:04:05Z",
            "managedFields": [{"manager": "m", "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]},
        "spec": {
            "containers": [{"name": "c", "image": "i", "command": ["a", "b"], "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 3},
                "securityContext": {"runAsUser": 0, "privileged": false}}],
            "terminationGracePeriodSeconds": 0, "hostNetwork": true,
        },
        "status": {"phase": "Running", "startTime": "2026-01-02T03:04:06Z"},
    });
    let decoded = decode(&encode(&pod).unwrap()).unwrap();
    assert_eq!((decoded.api_version.as_str(), decoded.kind.as_str()), ("v1", "Pod"));
    for path in ["/metadata/labels", "/metadata/managedFields", "/metadata/creationTimestamp", "/spec", "/status"] {
        let (got, wanted) = (decoded.value.pointer(path), pod.pointer(path));
        assert!(contains(got.unwrap(), wanted.unwrap()), "{path}: {got:?} / {wanted:?}");
    }
}

/// Whether all of `wanted` is in `got`: JSON has members that are always there, zero or not.
fn contains(got: &Value, wanted: &Value) -> bool {
    match (got, wanted) {
        (Value::Object(got), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| got.get(name).is_some_and(|got| contains(got, value)))
        }
        (Value::Array(got), Value::Array(wanted)) => {
            got.len() == wanted.len() && got.iter().zip(wanted).all(|(got, wanted)| contains(got, wanted))
        }
        (got, wanted) => got == wanted,
    }
}

#[test]
fn types_with_their_own_json_form_come_back() {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {}, "template": {},
        "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}}}});
    let back = decode(&encode(&deployment).unwrap()).unwrap().value;
    assert_eq!(back.pointer("/spec/strategy/rollingUpdate"), deployment.pointer("/spec/strategy/rollingUpdate"));
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n"},
        "spec": {"renewTime": "2026-01-02T03:04:05.678901Z", "leaseDurationSeconds": 40}});
    let back = decode(&encode(&lease).unwrap()).unwrap().value;
    assert_eq!(back["spec"], lease["spec"]);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "AAEC/w=="}});
    assert_eq!(decode(&encode(&secret).unwrap()).unwrap().value["data"], secret["data"]);
}

#[test]
fn lists_statuses_and_options_have_definitions() {
    for (api_version, kind) in
        [("v1", "PodList"), ("v1", "Status"), ("v1", "DeleteOptions"), ("apps/v1", "DeploymentList")]
    {
        assert!(definition_of(api_version, kind).is_some(), "{api_version} {kind}");
    }
    assert_eq!(definition_of("example.com/v1", "Widget"), None);
}

#[test]
fn the_bytes_are_protobufs() {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}});
    let bytes = encode(&map).unwrap();
    let types = b"\x0a\x0f\x0a\x02v1\x12\x09ConfigMap";
    let raw = b"\x12\x08\x12\x06\x0a\x01a\x12\x01b";
    assert_eq!(bytes, [MAGIC, types, raw, b"\x1a\x00\x22\x00"].concat());
    let frame = encode_watch_frame("ADDED", b"xyz");
    assert_eq!(frame, b"\0\0\0\x0e\x0a\x05ADDED\x12\x05\x0a\x03xyz");
}

#[test]
fn damaged_bytes_are_refused_not_panicked_on() {
    let whole = encode(
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": [{"name": "c"}]}}),
    );
    let whole = whole.unwrap();
    assert_eq!(decode(b"{}"), Err(ProtobufError::Envelope));
    for end in MAGIC.len()..whole.len() {
        // Cut at a field's end it is a smaller object; anywhere else an error.
        drop(decode(&whole[..end]));
    }
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            drop(decode(&damaged));
        }
    }
}
