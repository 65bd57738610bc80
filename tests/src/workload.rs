//! What users of a cluster run in scenarios: web servers behind services, and pods to ask from.

use crate::cluster::Server;
use std::net::Ipv4Addr;
use std::time::Duration;

/// A deployment of web servers that answer with their names, and its service.
#[derive(Debug, Clone, Copy)]
pub struct Web<'a> {
    pub name: &'a str,
    pub replicas: usize,
    pub node_port: Option<u16>,
    /// On which nodes: a part of the pods' specification.
    pub place: &'a str,
    /// For how many seconds a pod that is told to end goes on answering, while clients learn of it.
    pub lingers: u32,
}

impl Web<'_> {
    pub fn manifest(&self) -> String {
        let Self { name, replicas, place, lingers, .. } = self;
        let hook = match lingers {
            0 => String::new(),
            seconds => format!("lifecycle: {{preStop: {{sleep: {{seconds: {seconds}}}}}}}"),
        };
        let kind = if self.node_port.is_some() { "NodePort" } else { "ClusterIP" };
        let node_port = self.node_port.map(|port| format!(", nodePort: {port}")).unwrap_or_default();
        format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: {}
      {place}
      containers:
      - name: main
        image: rk.local/busybox:test
        imagePullPolicy: Never
        command: [sh, -c, \"mkdir /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w\"]
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 2}}
        {hook}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: {kind}
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: 8080{node_port}}}]
---
",
            lingers + 1
        )
    }
}

/// A pod on a node that does nothing.
pub fn client(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: client}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: \"rk.local/busybox:test\", imagePullPolicy: Never, command: [sleep, \"100000\"]}}
---
"
    )
}

/// A service's address.
///
/// # Panics
/// When it has none.
pub fn service(server: &Server, name: &str) -> Ipv4Addr {
    let text = server.kubectl(|kubectl| kubectl.ok(&["get", "service", name, "-o=jsonpath={.spec.clusterIP}"]));
    text.parse().expect("the service has an address")
}

/// Waits until a service's endpoints that are ready are so many.
pub fn endpoints(server: &Server, name: &str, count: usize, limit: Duration) {
    let label = format!("-lkubernetes.io/service-name={name}");
    let path = "-o=jsonpath={range .items[*].endpoints[*]}{.conditions.ready} {end}";
    server.kubectl(|kubectl| {
        kubectl.until(limit, &["get", "endpointslices", &label, path], |text| text.matches("true").count() == count)
    });
}
