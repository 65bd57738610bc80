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
    let mut frame = Vec::new();
    Transcoder::default().watch_frame(&mut frame, "ADDED", ("v1", "ConfigMap"), map.to_string().as_bytes()).unwrap();
    assert_eq!(frame, [b"\0\0\0\x2e\x0a\x05ADDED\x12\x25\x0a\x23".as_slice(), &bytes].concat());
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

#[test]
fn a_list_written_item_by_item_is_the_list() {
    let items: Vec<Value> = (0..3).map(|at| json!({"metadata": {"name": format!("pod-{at}")}, "spec": {}})).collect();
    let metadata = json!({"resourceVersion": "7", "continue": "x".repeat(200), "remainingItemCount": 300});
    let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": items});
    let form = ListForm::of("v1", "PodList").unwrap();
    let mut transcoder = Transcoder::default();
    let mut body = Vec::new();
    for item in &items {
        form.item(&mut transcoder, &mut body, item.to_string().as_bytes()).unwrap();
    }
    let (mut out, own) = (Vec::new(), json!({ "metadata": metadata }).to_string());
    form.head(&mut out, ("v1", "PodList"), own.as_bytes(), body.len()).unwrap();
    out.extend_from_slice(&body);
    ListForm::end(&mut out);
    assert_eq!(out, encode(&list).unwrap());
    assert!(ListForm::of("v1", "Pod").is_err());
}

#[test]
fn an_object_that_does_not_fit_leaves_no_half_frame() {
    let mut out = b"before".to_vec();
    let mut transcoder = Transcoder::default();
    let refused = transcoder.watch_frame(&mut out, "ADDED", ("v1", "Pod"), br#"{"spec":{"containers":[{"name":7}]}}"#);
    let wanted = ProtobufError::Type { field: "name".into(), value: "a number".into(), wanted: "a string" };
    assert_eq!((refused, out.as_slice()), (Err(wanted), b"before".as_slice()));
    let whole = br#"{"metadata":{"name":"x"}}"#;
    transcoder.watch_frame(&mut out, "ADDED", ("v1", "Pod"), whole).unwrap();
    let mut enveloped = Vec::new();
    transcoder.object(&mut enveloped, "v1", "Pod", whole).unwrap();
    let length = u32::from_be_bytes(out[6..10].try_into().unwrap()) as usize;
    assert_eq!(length, out.len() - 10);
    assert!(out.windows(enveloped.len()).any(|window| window == enveloped));
}

/// How long a list of 2,000 pods takes: `cargo test --release -p objects -- --ignored --nocapture pods_are_written`.
#[test]
#[ignore = "a measurement"]
fn pods_are_written() {
    let env: Vec<_> =
        (0..8).map(|at| json!({"name": format!("VARIABLE_{at}"), "value": format!("value-{at}")})).collect();
    let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}, "f:tier": {}}}, "f:spec": {"f:containers": {
        "k:{\"name\":\"main\"}": {".": {}, "f:env": {".": {}, "k:{\"name\":\"VARIABLE_0\"}": {".": {}, "f:name": {}, "f:value": {}}},
            "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {".": {}, "f:limits": {".": {}, "f:cpu": {}, "f:memory": {}},
                "f:requests": {".": {}, "f:cpu": {}, "f:memory": {}}}, "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {}}},
        "f:dnsPolicy": {}, "f:enableServiceLinks": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {}}});
    let pod = json!({
        "metadata": {"name": "pod-00001", "namespace": "load", "uid": "0d9cba51-7d2c-4b9a-9f43-1d4d2a2f9ed1", "resourceVersion": "123456",
            "generation": 1, "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"app": "load", "tier": "backend"},
            "annotations": {"example.com/note": "x".repeat(200)},
            "managedFields": [{"manager": "load", "operation": "Update", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z",
                "fieldsType": "FieldsV1", "fieldsV1": fields}]},
        "spec": {"containers": [{"name": "main", "image": "registry.example.com/app:1.2.3", "env": env, "imagePullPolicy": "IfNotPresent",
                "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
                "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1,
                    "successThreshold": 1, "failureThreshold": 3},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]}],
            "volumes": [{"name": "token", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "serviceAccountName": "default",
            "schedulerName": "nobody", "securityContext": {}, "priority": 0, "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority"},
        "status": {"phase": "Pending", "qosClass": "Burstable", "conditions": [{"type": "PodScheduled", "status": "False",
            "lastTransitionTime": "2026-01-02T03:04:05Z", "reason": "Unschedulable"}]}});
    let json = pod.to_string();
    let form = ListForm::of("v1", "PodList").unwrap();
    let mut best = std::time::Duration::MAX;
    let mut out = Vec::new();
    for _ in 0..20 {
        let begin = std::time::Instant::now();
        let mut transcoder = Transcoder::default();
        out.clear();
        for _ in 0..2000 {
            form.item(&mut transcoder, &mut out, json.as_bytes()).unwrap();
        }
        best = best.min(begin.elapsed());
    }
    println!("2000 pods, {} B of JSON and {} B of protobuf each: {best:?}", json.len(), out.len() / 2000);
}
