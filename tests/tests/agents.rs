//! A second machine: joining, pods across nodes, and the node's API through its outbound connection.
#![forbid(unsafe_code)]

use rk_tests::image::fetch;
use rk_tests::{Cluster, need, one_at_a_time};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: rk.local/busybox:test\n    imagePullPolicy: Never\n    command: [sh, -c, \"mkdir /tmp/www; hostname > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www\"]\n"
    )
}

#[test]
fn an_agent_joins_and_its_pods_are_reached_from_everywhere() {
    if !need::met("an_agent_joins_and_its_pods_are_reached_from_everywhere", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    let mut cluster = Cluster::prepare(&[]).with_busybox();
    cluster.server.start();
    cluster.api_answers();
    let archive = cluster.server.data_dir().join("agent/images/busybox.tar");
    let agent = cluster.agent("edge", &[]);
    let mut import = agent.rk(&["images", "import"]);
    import.arg(&archive).arg(format!("--state-dir={}", agent.folder.join("run").display()));
    cluster.node_ready("edge");
    rk_tests::process::check(&mut import, None).expect("import the image");
    cluster.kubectl(|kubectl| {
        for node in ["server", "edge"] {
            kubectl.ok_with(&["apply", "-f", "-"], &pod(&format!("on-{node}"), node));
        }
        for node in ["server", "edge"] {
            kubectl.ok(&["wait", "--for=condition=Ready", &format!("pod/on-{node}"), "--timeout=60s"]);
        }
        for (from, to) in [("on-server", "on-edge"), ("on-edge", "on-server")] {
            let address = kubectl.ok(&["get", "pod", to, "-o", "jsonpath={.status.podIP}"]);
            let fetch = fetch(&address, "8080");
            let page = kubectl.until(SOON, &["exec", from, "--", "sh", "-c", &fetch], |text| !text.is_empty());
            assert_eq!(page, format!("{to}\n"));
        }
        assert_eq!(kubectl.ok(&["logs", "on-edge"]), "");
    });
}
