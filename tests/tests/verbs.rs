//! kubectl's less common verbs and flags, as a demanding user tries them, where no pod is needed.
#![forbid(unsafe_code)]

use rk_tests::kubectl::Kubectl;
use rk_tests::need::{self, Need};
use rk_tests::process::{Background, output};
use rk_tests::{Cluster, one_at_a_time, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const NEEDS: &[Need] = &[Need::Root, Need::Kubectl, Need::Program("ip"), Need::Program("nsenter")];
const SOON: Duration = Duration::from_secs(60);
const WAIT: &str = "--timeout=60s";

const DEPLOYMENT: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: rk.local/none, ports: [{containerPort: 80}]}]}
";

/// A signing request, in base64, of somebody called jane, in the group devs; nobody has the key any more.
const REQUEST: &str = "\
    LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIWk1JR0FBZ0VBTUI0eERUQUxCZ05WQkFNTUJHcGhibVV4\
    RFRBTEJnTlZCQW9NQkdSbGRuTXdXVEFUQmdjcQpoa2pPUFFJQkJnZ3Foa2pPUFFNQkJ3TkNBQVNkaHZ4d1F0NUZwS0xUQURl\
    UVA2dFpGUzNoN2hOWm5vQzBSQ3M0CmVCbWJsM3kvN2hwczJIUENxYnkvVVMrNnZ6b0ZKRm96aXZvbk1vYXEwUnZDUmRoOG9B\
    QXdDZ1lJS29aSXpqMEUKQXdJRFNBQXdSUUlnS3pTR1AxbXFXby84WFErU3N5NFA5bWl4RVNUbFpyd0RxbHpSbE54SnRmMENJ\
    UUNTNCtwZgptNVpIRlF1OWdlZFdtSENKM1hGeEtPN3Q4VTdYMWZPLzNIRzlwQT09Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJF\
    UVVFU1QtLS0tLQo=";

fn server() -> Cluster {
    Cluster::start(&["--disable-agent"])
}

/// Runs `kubectl edit` with an editor that is a sed script. Success or failure, its output.
fn edit(kubectl: &Kubectl<'_>, folder: &Path, script: &str, arguments: &[&str]) -> (bool, String) {
    let editor = folder.join("editor");
    fs::write(&editor, format!("#!/bin/sh\nexec sed -i '{script}' \"$1\"\n")).expect("write the editor");
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).expect("make the editor executable");
    let mut command = kubectl.command(&[&["edit"], arguments].concat());
    command.env("KUBE_EDITOR", &editor).env("TMPDIR", folder);
    let output = output(&mut command, None).expect("run kubectl edit");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn objects_are_replaced_and_edited() {
    if !need::met("objects_are_replaced_and_edited", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let folder = tempfile::tempdir().expect("make a folder");
    server().kubectl(|kubectl| {
        kubectl.ok(&["create", "configmap", "one", "--from-literal=a=1"]);
        let first = kubectl.ok(&["get", "cm", "one", "-o", "yaml"]);
        kubectl.ok_with(&["replace", "-f", "-"], &first.replace("\"1\"", "\"2\""));
        let stale = kubectl.fails(&["replace", "-f", "-"], Some(&first));
        assert!(
            stale.contains("the object has been modified; please apply your changes to the latest version"),
            "{stale}"
        );
        let free: String =
            first.lines().filter(|line| !line.contains("resourceVersion")).fold(String::new(), |mut all, line| {
                all.push_str(line);
                all.push('\n');
                all
            });
        kubectl.ok_with(&["replace", "-f", "-"], &free.replace("\"1\"", "\"3\""));
        assert_eq!(kubectl.ok(&["get", "cm", "one", "-o", "jsonpath={.data.a}"]), "3");
        kubectl.ok_with(&["replace", "--force", "-f", "-"], &free);
        let missing =
            kubectl.fails(&["replace", "-f", "-"], Some("{apiVersion: v1, kind: ConfigMap, metadata: {name: no}}"));
        assert!(missing.contains(r#"configmaps "no" not found"#), "{missing}");

        assert_eq!(
            edit(kubectl, folder.path(), "s/a: \"1\"/a: \"9\"/", &["cm", "one"]),
            (true, "configmap/one edited\n".into())
        );
        assert_eq!(kubectl.ok(&["get", "cm", "one", "-o", "jsonpath={.data.a}"]), "9");
        kubectl.ok_with(&["create", "-f", "-"], DEPLOYMENT);
        let (done, text) = edit(kubectl, folder.path(), "s/ replicas: 1/ replicas: -1/", &["deploy", "web"]);
        assert!(!done && text.contains(r#"deployments.apps "web" is invalid"#), "{text}");
        let (done, text) = edit(kubectl, folder.path(), "s/nothing/other/", &["deploy", "web"]);
        assert!(done && text.contains("Edit cancelled, no changes made"), "{text}");
        let counted = "jsonpath={.status.observedGeneration} {.status.collisionCount}";
        kubectl.until(SOON, &["get", "deploy", "web", "-o", counted], |text| text.starts_with("1 "));
        let status = r"s/^  observedGeneration: .*/&\n  collisionCount: 5/";
        assert!(edit(kubectl, folder.path(), status, &["deploy", "web", "--subresource=status"]).0);
        assert_eq!(kubectl.ok(&["get", "deploy", "web", "-o", counted]), "1 5");
        kubectl.ok(&[
            "patch",
            "deploy",
            "web",
            "--subresource=scale",
            "--type=merge",
            "-p",
            r#"{"spec":{"replicas":4}}"#,
        ]);
        let scale = kubectl.ok(&["get", "deploy", "web", "--subresource=scale"]);
        assert!(scale.starts_with("NAME   DESIRED   AVAILABLE   AGE\nweb    4 "), "{scale}");
    });
}

#[test]
fn rollouts_are_paused_resumed_and_taken_back_to_any_revision() {
    if !need::met("rollouts_are_paused_resumed_and_taken_back_to_any_revision", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    server().kubectl(|kubectl| {
        kubectl.ok_with(&["create", "-f", "-"], DEPLOYMENT);
        let revisions = |wanted: usize| {
            let history = &["rollout", "history", "deploy/web"];
            kubectl
                .until(SOON, history, |text| text.lines().filter(|l| l.starts_with(char::is_numeric)).count() == wanted)
        };
        revisions(1);
        kubectl.ok(&["rollout", "pause", "deploy/web"]);
        assert!(kubectl.fails(&["rollout", "pause", "deploy/web"], None).contains("is already paused"));
        kubectl.ok(&["set", "env", "deploy/web", "A=1"]);
        kubectl.ok(&["set", "resources", "deploy/web", "--requests=cpu=10m"]);
        assert!(kubectl.fails(&["rollout", "undo", "deploy/web"], None).contains("paused deployment"));
        kubectl.ok(&["rollout", "resume", "deploy/web"]);
        revisions(2);
        kubectl.ok(&["set", "serviceaccount", "deploy/web", "robot"]);
        kubectl.ok(&["annotate", "deploy/web", "kubernetes.io/change-cause=robots"]);
        revisions(3);
        kubectl.until(SOON, &["rollout", "history", "deploy/web"], |text| text.contains("robots"));
        assert!(kubectl.ok(&["rollout", "history", "deploy/web", "--revision=2"]).contains("A:\t1"));
        kubectl.ok(&["rollout", "undo", "deploy/web", "--to-revision=1"]);
        kubectl
            .until(SOON, &["rollout", "history", "deploy/web"], |text| text.contains("\n4 ") && !text.contains("\n1 "));
        let missing = kubectl.fails(&["rollout", "undo", "deploy/web", "--to-revision=77"], None);
        assert!(missing.contains("unable to find specified revision 77 in history"), "{missing}");
        kubectl.ok(&["autoscale", "deploy", "web", "--min=2", "--max=5", "--cpu-percent=80"]);
        assert!(kubectl.ok(&["get", "hpa", "web", "--no-headers"]).contains("cpu: <unknown>/80%"));
        assert!(kubectl.fails(&["top", "node"], None).contains("Metrics API not available"));
    });
}

#[test]
fn every_generator_makes_something_the_server_takes() {
    if !need::met("every_generator_makes_something_the_server_takes", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    server().kubectl(|kubectl| {
        for line in [
            "deployment d --image=i --port=80 -- sleep 1",
            "cronjob c --image=i --schedule=@daily -- date",
            "job j --image=i -- true",
            "job k --from=cronjob/c",
            "ingress i --rule=foo.com/bar*=svc:80,tls=t --class=n",
            "role r --verb=get --resource=pods,deployments.apps,pods/log",
            "clusterrole r --verb=get --non-resource-url=/logs/*",
            "rolebinding r --clusterrole=view --user=u --serviceaccount=default:default",
            "clusterrolebinding r --clusterrole=view --group=g",
            "quota q --hard=pods=9,cpu=8",
            "secret docker-registry s --docker-server=x --docker-username=u --docker-password=p",
            "secret generic g --from-literal=a=b --type=example.com/x",
            "pdb p --selector=a=b --min-available=50%",
            "priorityclass p --value=1 --preemption-policy=Never",
            "service clusterip s1 --tcp=80:8080",
            "service nodeport s2 --tcp=80 --node-port=30999",
            "service loadbalancer s3 --tcp=80",
            "service externalname s4 --external-name=example.com",
            "serviceaccount robot",
            "namespace n",
        ] {
            kubectl.ok(&[&["create"], line.split(' ').collect::<Vec<_>>().as_slice()].concat());
        }
        let taken = kubectl.fails(&["create", "service", "nodeport", "s5", "--tcp=80", "--node-port=30999"], None);
        assert!(taken.contains("provided port is already allocated"), "{taken}");
        assert_eq!(kubectl.ok(&["create", "token", "robot", "--duration=1h"]).split('.').count(), 3);
        let short = kubectl.fails(&["create", "token", "robot", "--duration=1m"], None);
        assert!(short.contains("may not specify a duration less than 10 minutes"), "{short}");
    });
}

#[test]
fn sets_of_objects_are_applied_pruned_waited_for_and_watched() {
    if !need::met("sets_of_objects_are_applied_pruned_waited_for_and_watched", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let folder = tempfile::tempdir().expect("make a folder");
    server().kubectl(|kubectl| {
        let map = |name: &str| {
            format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: s}}}}\n")
        };
        let prune = &["apply", "-f", "-", "-l", "set=s", "--prune", "--prune-allowlist=core/v1/ConfigMap"];
        kubectl.ok_with(prune, &(map("a") + &map("b")));
        assert!(kubectl.ok_with(prune, &map("a")).contains("configmap/b pruned"));

        fs::write(folder.path().join("kustomization.yaml"), "namePrefix: k-\nresources: [map.yaml]\n").expect("write");
        fs::write(folder.path().join("map.yaml"), map("m")).expect("write");
        assert_eq!(kubectl.ok(&["apply", "-k", &folder.path().display().to_string()]), "configmap/k-m created\n");

        let watched = folder.path().join("watched");
        let watch = ["get", "cm", "-l", "set=s", "-w", "--output-watch-events", "--no-headers"];
        let watcher = Background::start(kubectl.command(&watch), &watched);
        let waits = ["wait", "cm/late", "--for=create", WAIT];
        let waiter = Background::start(kubectl.command(&waits), &folder.path().join("waited"));
        let seen = |what: &str, background: &Background, wanted: &str| {
            until(what, SOON, || if background.log().contains(wanted) { Ok(()) } else { Err(background.log()) });
        };
        seen("the list is watched", &watcher, "ADDED   a ");
        kubectl.ok_with(&["apply", "-f", "-"], &map("late"));
        seen("kubectl wait sees the creation", &waiter, "condition met");
        kubectl.ok(&["delete", "cm", "late"]);
        kubectl.ok(&["wait", "cm/late", "--for=delete", WAIT]);
        seen("the watch sees the deletion", &watcher, "DELETED   late ");
        kubectl.ok(&["wait", "ns/default", "--for=jsonpath={.status.phase}=Active", WAIT]);

        kubectl.ok_with(&["create", "-f", "-"], DEPLOYMENT);
        kubectl.until(SOON, &["events", "--for=deploy/web"], |text| text.contains("ScalingReplicaSet"));
        assert!(kubectl.ok(&["describe", "deploy", "web"]).contains("ScalingReplicaSet"));
        kubectl.ok(&["delete", "deploy", "web", "--cascade=orphan"]);
        assert!(kubectl.ok(&["get", "rs", "-l", "app=web", "-o", "name"]).contains("replicaset"));
    });
}

#[test]
fn kinds_that_take_no_blind_update_can_be_applied_again() {
    if !need::met("kinds_that_take_no_blind_update_can_be_applied_again", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let budget = "{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: p}, spec: {minAvailable: 1}}";
    let definition = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, description: first}}}]
";
    server().kubectl(|kubectl| {
        for (first, next) in [
            (budget, budget.replace("minAvailable: 1", "minAvailable: 2")),
            (definition, definition.replace("description: first", "description: second")),
        ] {
            kubectl.ok_with(&["apply", "-f", "-"], first);
            assert!(kubectl.ok_with(&["apply", "-f", "-"], &next).contains("configured"));
            kubectl.ok_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], first);
        }
        kubectl.ok(&["patch", "pdb", "p", "--type=merge", "-p", r#"{"spec":{"minAvailable":3}}"#]);
    });
}

#[test]
fn approved_certificate_requests_are_signed() {
    if !need::met("approved_certificate_requests_are_signed", NEEDS) {
        return;
    }
    let _turn = one_at_a_time();
    let request = |name: &str, signer: &str, usage: &str| {
        format!(
            "{{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {{name: {name}}}, \
             spec: {{request: {REQUEST}, signerName: kubernetes.io/{signer}, usages: [{usage}]}}}}"
        )
    };
    server().kubectl(|kubectl| {
        kubectl.ok_with(&["create", "-f", "-"], &request("good", "kube-apiserver-client", "client auth"));
        kubectl.ok_with(&["create", "-f", "-"], &request("bad", "kubelet-serving", "server auth"));
        kubectl.ok_with(&["create", "-f", "-"], &request("no", "kube-apiserver-client", "client auth"));
        kubectl.ok(&["certificate", "approve", "good", "bad"]);
        kubectl.ok(&["certificate", "deny", "no"]);
        kubectl.ok(&["wait", "csr/good", "--for=jsonpath={.status.certificate}", WAIT]);
        kubectl.until(SOON, &["get", "csr", "--no-headers"], |text| {
            text.contains("Approved,Issued") && text.contains("Approved,Failed") && text.contains("Denied")
        });
        let why = "jsonpath={.status.conditions[?(@.type=='Failed')].message}";
        assert_eq!(kubectl.ok(&["get", "csr", "bad", "-o", why]), "subject organization is not system:nodes");
    });
}
