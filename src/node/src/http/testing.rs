//! A node that behaves, without containers: its processes are tasks.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use runtime::spec::{AttachSpec, TtySize};
use runtime::{ContainerId, ExecSpec, PodStats, PodStatus, RuntimeError};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::host::{Host, MachineStats, Process};
use super::{Api, serve};
use crate::{ContainerHandle, LookupError};

pub(super) struct FakeNode {
    pub(super) logs: tempfile::TempDir,
    /// The container's state: `None` while it waits to start, then whether it runs.
    pub(super) running: watch::Sender<Option<bool>>,

    pub(super) attached: Mutex<Option<AttachSpec>>,
}

impl FakeNode {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            logs: tempfile::tempdir().unwrap(),
            running: watch::Sender::new(Some(true)),

            attached: Mutex::default(),
        })
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.logs.path().join("0.log")
    }

    pub(super) fn log(&self, text: &str) {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(self.log_path()).unwrap();
        writeln!(file, "2026-01-02T03:04:05.000000000Z stdout F {text}").unwrap();
    }
}

/// Runs a command the fake knows: `cat`, `warn` (to stderr), `exit N`, `size` (waits for one), `none` (not there). With the
/// last word `later` it waits for the end of its input first.
fn run(args: &[String], tty: bool) -> Result<Process, RuntimeError> {
    let (stdin, mut input) = tokio::io::duplex(1 << 10);
    let (mut output, stdout) = tokio::io::duplex(1 << 10);
    let (mut errors, stderr) = tokio::io::duplex(1 << 10);
    let (resize, mut sizes) = mpsc::channel::<TtySize>(4);
    let mut args = args.to_vec();
    let later = args.pop_if(|word| word == "later").is_some();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if words == ["none"] {
        return Err(RuntimeError::CannotRun("executable file not found in $PATH".into()));
    }
    let process = tokio::spawn(async move {
        if later {
            input.read_to_end(&mut Vec::new()).await.unwrap();
        }
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["cat"] => drop(tokio::io::copy(&mut input, &mut output).await.unwrap()),
            ["warn"] => errors.write_all(b"careful").await.unwrap(),
            ["exit", code] => return code.parse().unwrap(),
            ["size"] => {
                let size = sizes.recv().await.unwrap();
                output.write_all(format!("{}x{}", size.width, size.height).as_bytes()).await.unwrap();
            }
            ["sleep"] => drop(input.read_to_end(&mut Vec::new()).await.unwrap()),
            other => output.write_all(format!("{other:?}").as_bytes()).await.unwrap(),
        }
        0
    });
    Ok(Process {
        stdin: Some(Box::new(stdin)),
        stdout: Some(Box::new(stdout)),
        stderr: (!tty).then(|| Box::new(stderr) as super::host::Output),
        resize,
        exit: Box::pin(async move { Ok(process.await.unwrap()) }),
        resizing: Box::pin(std::future::pending()),
    })
}

#[async_trait]
impl Host for FakeNode {
    fn node_name(&self) -> &str {
        "n1"
    }

    fn configuration(&self) -> serde_json::Value {
        json!({"kubeletconfig": {}})
    }

    fn machine(&self) -> MachineStats {
        MachineStats { cpus: 2, memory: 100, memory_available: 40, cpu_ns: 5_000_000_000, ..MachineStats::default() }
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        let pod =
            json!({"metadata": {"namespace": "default", "name": "web", "uid": "u-1"}, "status": {"phase": "Running"}});
        vec![Arc::new(serde_json::from_value(pod).unwrap())]
    }

    fn running(&self) -> Vec<PodStatus> {
        Vec::new()
    }

    fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<Arc<Pod>, LookupError> {
        let known = (namespace, name) == ("default", "web") && uid.is_none_or(|uid| uid == "u-1");
        let pod = self.pods().pop().filter(|_| known);
        pod.ok_or_else(|| LookupError::NoPod(name.to_owned()))
    }

    fn container(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        container: &str,
        previous: bool,
    ) -> Result<ContainerHandle, LookupError> {
        self.pod(namespace, name, uid)?;
        let (pod, container) = (name.to_owned(), container.to_owned());
        let Some(running) = *self.running.borrow() else {
            return Err(LookupError::Waiting { pod, container, reason: "ContainerCreating".into() });
        };
        match container.as_str() {
            "app" if previous => Err(LookupError::NoPrevious { pod, container }),
            "app" => Ok(ContainerHandle {
                id: ContainerId::new("c1"),
                log_path: self.log_path(),
                running,
                tty: false,
                stdin: true,
                attempt: 0,
            }),
            _ => Err(LookupError::NoContainer { pod, container }),
        }
    }

    fn netns(&self, uid: &str) -> Option<PathBuf> {
        (uid == "u-1" && *self.running.borrow() == Some(true)).then(|| PathBuf::from("/proc/self/ns/net"))
    }

    fn next_start(&self) -> BoxFuture<'static, ()> {
        let mut running = self.running.subscribe();
        Box::pin(async move { drop(running.wait_for(Option::is_some).await.map(|_| ())) })
    }

    async fn ended(&self, _: &ContainerId) {
        self.running.subscribe().wait_for(|r| *r == Some(false)).await.unwrap();
    }

    async fn exec(&self, _: &ContainerId, spec: ExecSpec) -> Result<Process, RuntimeError> {
        run(&spec.args, spec.tty)
    }

    async fn attach(&self, _: &ContainerId, spec: AttachSpec) -> Result<Process, RuntimeError> {
        *self.attached.lock().unwrap() = Some(spec);
        run(&["cat".to_owned()], false)
    }

    async fn pod_stats(&self, _: &str) -> Option<PodStats> {
        None
    }
}

/// Sends one request to the API on a connection of its own.
pub(super) async fn send(node: &Arc<FakeNode>, request: Request<Empty<&'static [u8]>>) -> Response<Incoming> {
    let api = Api::new(node.clone(), TaskTracker::new(), CancellationToken::new());
    let (ours, theirs) = tokio::io::duplex(16 << 10);
    tokio::spawn(serve(ours, api));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(theirs)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.unwrap()
}
