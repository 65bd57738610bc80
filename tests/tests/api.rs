//! kubectl against a server without a node: every verb that needs no pod.
#![forbid(unsafe_code)]

use rk_tests::need::{self, Need};
use rk_tests::{Cluster, one_at_a_time};
use std::time::Duration;

const NEEDS: &[Need] = &[Need::Root, Need::Kubectl, Need::Program("ip"), Need::Program("nsenter")];
const SOON: Duration = Duration::from_secs(60);

const DEPLOYMENT: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: rk.local/none, ports: [{containerPort: 80}]}]}
";

fn server() -> Cluster {
    Cluster::start(&["--disable-agent"])
}

#[test]
fn objects_are_created_read_changed_and_deleted() {
    if !need::met("objects_are_created_read_changed_and_deleted", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    server().kubectl(|kubectl| {
        kubectl.ok(&["create", "configmap", "one", "--from-literal=a=1"]);
        kubectl.ok(&["label", "configmap", "one", "tier=front"]);
        kubectl.ok(&["annotate", "configmap", "one", "note=x"]);
        assert_eq!(kubectl.ok(&["get", "cm", "-l", "tier=front", "-o", "name"]), "configmap/one\n");
        assert_eq!(kubectl.ok(&["get", "cm", "-l", "tier!=front,tier", "-o", "name"]), "");
        assert_eq!(kubectl.ok(&["get", "cm", "--field-selector=metadata.name=one", "-o", "name"]), "configmap/one\n");
        for (kind, patch) in [
            ("merge", r#"{"data":{"b":"2"}}"#),
            ("strategic", r#"{"data":{"c":"3"}}"#),
            ("json", r#"[{"op":"add","path":"/data/d","value":"4"}]"#),
        ] {
            kubectl.ok(&["patch", "cm", "one", "--type", kind, "-p", patch]);
        }
        let data = kubectl.ok(&["get", "cm", "one", "-o", "jsonpath={.data}"]);
        assert_eq!(data, r#"{"a":"1","b":"2","c":"3","d":"4"}"#);
        let columns = kubectl.ok(&["get", "cm", "one", "-o", "custom-columns=NAME:.metadata.name,A:.data.a"]);
        assert_eq!(columns, "NAME   A\none    1\n");
        let refused = kubectl.fails(&["create", "configmap", "one"], None);
        assert!(refused.contains(r#"configmaps "one" already exists"#), "{refused}");
        kubectl.ok(&["delete", "cm", "one"]);
        let gone = kubectl.fails(&["get", "cm", "one"], None);
        assert!(gone.contains(r#"Error from server (NotFound): configmaps "one" not found"#), "{gone}");
    });
}

#[test]
fn apply_works_on_the_client_and_on_the_server() {
    if !need::met("apply_works_on_the_client_and_on_the_server", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    server().kubectl(|kubectl| {
        assert!(kubectl.ok_with(&["apply", "-f", "-"], DEPLOYMENT).contains("created"));
        assert!(kubectl.ok_with(&["apply", "-f", "-"], DEPLOYMENT).contains("unchanged"));
        let scaled = DEPLOYMENT.replace("replicas: 2", "replicas: 4");
        assert!(kubectl.ok_with(&["apply", "-f", "-"], &scaled).contains("configured"));
        assert_eq!(kubectl.ok(&["get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"]), "4");
        assert!(
            kubectl
                .ok_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], DEPLOYMENT)
                .contains("applied")
        );
        let other = DEPLOYMENT.replace("replicas: 2", "replicas: 7");
        let mut conflict = kubectl.command(&["apply", "--server-side", "--field-manager=other", "-f", "-"]);
        let refused = rk_tests::process::check(&mut conflict, Some(&other)).unwrap_err().to_string();
        assert!(refused.contains("conflict") && refused.contains(".spec.replicas"), "{refused}");
        // kubectl diff answers 1 when there is a difference.
        let diff = rk_tests::process::output(&mut kubectl.command(&["diff", "-f", "-"]), Some(&other)).unwrap();
        assert_eq!(diff.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&diff.stdout).contains("+  replicas: 7"));
    });
}

#[test]
fn what_the_server_offers_is_discovered_and_explained() {
    if !need::met("what_the_server_offers_is_discovered_and_explained", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    server().kubectl(|kubectl| {
        let resources = kubectl.ok(&["api-resources"]);
        for line in ["pods ", "deployments ", "networkpolicies ", "customresourcedefinitions ", "leases "] {
            assert!(resources.contains(line), "{line}: {resources}");
        }
        assert!(kubectl.ok(&["api-versions"]).lines().any(|line| line == "apps/v1"));
        assert!(kubectl.ok(&["version"]).contains("Server Version: v1.36"));
        assert!(kubectl.ok(&["cluster-info"]).contains("is running at"));
        let explained = kubectl.ok(&["explain", "pod.spec.containers.livenessProbe"]);
        assert!(explained.contains("httpGet"), "{explained}");
        assert!(kubectl.ok(&["get", "componentstatuses"]).contains("Healthy"));
        assert_eq!(kubectl.ok(&["auth", "can-i", "create", "pods"]), "yes\n");
        assert!(kubectl.ok(&["auth", "whoami"]).contains("system:admin"));
        let refused = kubectl.fails(&["auth", "can-i", "create", "pods", "--as=nobody"], None);
        assert!(!refused.contains("yes"), "{refused}");
        let forbidden = kubectl.fails(&["get", "pods", "--as=nobody"], None);
        let wanted = r#"pods is forbidden: User "nobody" cannot list resource "pods" in API group "" in the namespace "default""#;
        assert!(forbidden.contains(wanted), "{forbidden}");
    });
}

#[test]
fn invalid_manifests_name_the_field_as_upstream_does() {
    if !need::met("invalid_manifests_name_the_field_as_upstream_does", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    server().kubectl(|kubectl| {
        let negative = DEPLOYMENT.replace("replicas: 2", "replicas: -2");
        let refused = kubectl.fails(&["create", "-f", "-"], Some(&negative));
        let wanted =
            r#"The Deployment "web" is invalid: spec.replicas: Invalid value: -2: must be greater than or equal to 0"#;
        assert!(refused.contains(wanted), "{refused}");
        let unknown = DEPLOYMENT.replace("replicas: 2", "replicaz: 2");
        let refused = kubectl.fails(&["create", "-f", "-"], Some(&unknown));
        assert!(refused.contains(r#"unknown field "spec.replicaz""#), "{refused}");
        let mismatch = DEPLOYMENT.replace("labels: {app: web}}\n    spec", "labels: {app: other}}\n    spec");
        let refused = kubectl.fails(&["create", "-f", "-"], Some(&mismatch));
        assert!(refused.contains("`selector` does not match template `labels`"), "{refused}");
    });
}

#[test]
fn namespaces_take_their_content_with_them() {
    if !need::met("namespaces_take_their_content_with_them", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    server().kubectl(|kubectl| {
        kubectl.ok(&["create", "namespace", "lab"]);
        kubectl.until(SOON, &["get", "serviceaccount,configmap", "-n", "lab", "-o", "name"], |text| {
            text.contains("serviceaccount/default") && text.contains("configmap/kube-root-ca.crt")
        });
        kubectl.ok(&["create", "secret", "generic", "s", "-n", "lab", "--from-literal=k=v"]);
        kubectl.ok(&["delete", "namespace", "lab", "--timeout=30s"]);
        let gone = kubectl.fails(&["get", "secret", "s", "-n", "lab"], None);
        assert!(gone.contains("not found"), "{gone}");
    });
}

#[test]
fn deployments_scale_roll_and_roll_back() {
    if !need::met("deployments_scale_roll_and_roll_back", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    server().kubectl(|kubectl| {
        kubectl.ok_with(&["create", "-f", "-"], DEPLOYMENT);
        let pods = &["get", "pods", "-l", "app=web", "--no-headers", "--ignore-not-found"];
        kubectl.until(SOON, pods, |text| text.lines().count() == 2);
        kubectl.ok(&["scale", "deployment", "web", "--replicas=3"]);
        kubectl.until(SOON, pods, |text| text.lines().count() == 3);
        kubectl.ok(&["set", "image", "deployment/web", "web=rk.local/other"]);
        kubectl.until(SOON, &["get", "rs", "-l", "app=web", "--no-headers"], |text| text.lines().count() == 2);
        let history = kubectl.ok(&["rollout", "history", "deployment/web"]);
        assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
        kubectl.ok(&["rollout", "undo", "deployment/web"]);
        let image = &["get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"];
        assert_eq!(kubectl.ok(image), "rk.local/none");
        kubectl.ok(&["rollout", "restart", "deployment/web"]);
        kubectl.ok(&["expose", "deployment", "web", "--port=80"]);
        assert!(kubectl.ok(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]).starts_with("10.43."));
        kubectl.ok(&["delete", "deployment", "web", "--cascade=foreground", "--timeout=30s"]);
        kubectl.until(SOON, pods, str::is_empty);
    });
}

#[test]
fn custom_resources_are_served_like_built_in_ones() {
    if !need::met("custom_resources_are_served_like_built_in_ones", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let definition = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {size: {type: integer, minimum: 1, default: 3}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
";
    let widget = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: one}\nspec: {}\n";
    server().kubectl(|kubectl| {
        kubectl.ok_with(&["apply", "-f", "-"], definition);
        kubectl.ok(&["wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=20s"]);
        kubectl.ok_with(&["apply", "-f", "-"], widget);
        let table = kubectl.ok(&["get", "wd"]);
        assert!(
            table.contains("SIZE") && table.lines().any(|line| line.starts_with("one ") && line.contains('3')),
            "{table}"
        );
        let refused = kubectl.fails(&["apply", "-f", "-"], Some(&widget.replace("{}", "{size: 0}")));
        assert!(refused.contains("spec.size"), "{refused}");
        kubectl.ok(&["delete", "crd", "widgets.example.com", "--timeout=20s"]);
    });
}

#[test]
fn a_restarted_server_is_the_same_cluster() {
    if !need::met("a_restarted_server_is_the_same_cluster", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = server();
    for signal in [nix::sys::signal::Signal::SIGKILL, nix::sys::signal::Signal::SIGTERM] {
        cluster.kubectl(|kubectl| kubectl.ok(&["create", "configmap", &format!("kept-{signal}").to_lowercase()]));
        let uid =
            cluster.kubectl(|kubectl| kubectl.ok(&["get", "ns", "kube-system", "-o", "jsonpath={.metadata.uid}"]));
        cluster.server.stop(signal);
        cluster.server.start();
        cluster.api_answers();
        cluster.kubectl(|kubectl| {
            kubectl.ok(&["get", "configmap", &format!("kept-{signal}").to_lowercase()]);
            assert_eq!(uid, kubectl.ok(&["get", "ns", "kube-system", "-o", "jsonpath={.metadata.uid}"]));
        });
    }
}

const QUOTA: &str = r#"
apiVersion: v1
kind: ResourceQuota
metadata: {name: small}
spec: {hard: {configmaps: "3", count/deployments.apps: "1", services.nodeports: "1"}}
"#;

#[test]
fn quotas_are_kept_and_shown() {
    if !need::met("quotas_are_kept_and_shown", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    server().kubectl(|kubectl| {
        kubectl.ok(&["create", "namespace", "team"]);
        // The root certificate's map comes by itself, and counts.
        kubectl.until(SOON, &["get", "cm", "-n", "team", "-o", "name"], |names| names.contains("kube-root-ca.crt"));
        kubectl.ok_with(&["apply", "-n", "team", "-f", "-"], QUOTA);
        kubectl.ok(&["create", "cm", "-n", "team", "a"]);
        kubectl.ok(&["create", "cm", "-n", "team", "b"]);
        let refused = kubectl.fails(&["create", "cm", "-n", "team", "c"], None);
        let wanted = "exceeded quota: small, requested: configmaps=1, used: configmaps=3, limited: configmaps=3";
        assert!(refused.contains(wanted), "{refused}");
        kubectl.ok_with(&["apply", "-n", "team", "-f", "-"], DEPLOYMENT);
        let used = ["get", "quota", "small", "-n", "team", "-o", "jsonpath={.status.used}"];
        kubectl.until(SOON, &used, |used| {
            used == r#"{"configmaps":"3","count/deployments.apps":"1","services.nodeports":"0"}"#
        });
        kubectl.ok(&["delete", "cm", "-n", "team", "a"]);
        kubectl.until(SOON, &used, |used| used.contains(r#""configmaps":"2""#));
        kubectl.ok(&["create", "cm", "-n", "team", "c"]);
    });
}

#[test]
fn certificates_are_requested_approved_and_used() {
    let needs: Vec<Need> = NEEDS.iter().copied().chain([Need::Program("openssl")]).collect();
    if !need::met("certificates_are_requested_approved_and_used", &needs) {
        return;
    }
    let _turn = one_at_a_time();
    server().kubectl(|kubectl| {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (key, request) = (path("jane.key"), path("jane.csr"));
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        openssl.args(["-keyout", &key, "-out", &request, "-subj", "/CN=jane/O=dev"]);
        rk_tests::process::check(&mut openssl, None).unwrap();
        let mut encode = std::process::Command::new("openssl");
        let encoded = rk_tests::process::check(encode.args(["base64", "-A", "-in", &request]), None).unwrap();
        let body = serde_json::json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": "jane"}, "spec": {"signerName": "kubernetes.io/kube-apiserver-client",
            "expirationSeconds": 3600, "usages": ["client auth"], "request": encoded.trim()}});
        kubectl.ok_with(&["create", "-f", "-"], &body.to_string());
        assert!(kubectl.ok(&["get", "csr", "jane"]).contains("Pending"));
        kubectl.ok(&["certificate", "approve", "jane"]);
        let issued =
            ["get", "csr", "jane", "-o", "go-template={{with .status.certificate}}{{. | base64decode}}{{end}}"];
        let certificate = kubectl.until(SOON, &issued, |text| text.contains("BEGIN CERTIFICATE"));
        assert!(kubectl.ok(&["get", "csr", "jane"]).contains("Approved,Issued"));
        let file = path("jane.crt");
        std::fs::write(&file, certificate).unwrap();
        kubectl.ok(&["create", "rolebinding", "jane", "--clusterrole=view", "--user=jane"]);
        kubectl.ok(&["config", "set-credentials", "jane", "--client-certificate", &file, "--client-key", &key]);
        kubectl.until(SOON, &["get", "cm", "--user=jane", "-o", "name"], |names| names.contains("kube-root-ca.crt"));
        assert!(kubectl.ok(&["auth", "whoami", "--user=jane"]).contains("[dev system:authenticated]"));
        kubectl.fails(&["get", "secrets", "--user=jane"], None);
    });
}
