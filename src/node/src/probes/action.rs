//! One try of a probe or hook: exec, HTTP, TCP or gRPC.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use runtime::{ContainerId, ExecSpec, Runtime};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

use super::{grpc, http};
use crate::network::chain;

/// Bytes of output that are kept for the event.
const MAX_OUTPUT: u64 = 10 << 10;
const SIGKILL: i32 = 9;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    #[error("container has no port named {0:?}")]
    NoPort(String),
    #[error("invalid port number: {0}")]
    BadPort(i32),
    #[error("the pod has no address yet")]
    NoAddress,
    #[error("host {0:?} is not an IP address")]
    BadHost(String),
    #[error("missing probe handler")]
    Missing,
}

/// What to do.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Exec(Vec<String>),
    Http(http::Request),
    Tcp(SocketAddr),
    Grpc { to: SocketAddr, service: String },
}

/// How it went; the output is fit for an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) output: String,
}

impl Outcome {
    pub(crate) fn failed(output: impl Into<String>) -> Outcome {
        Outcome { success: false, output: output.into() }
    }
}

impl Action {
    pub(crate) fn of_probe(probe: &Probe, container: &Container, pod_ip: Option<&str>) -> Result<Action, ActionError> {
        if let Some(exec) = &probe.exec {
            return Ok(Action::exec(exec));
        }
        if let Some(get) = &probe.http_get {
            return Action::http(get, container, pod_ip);
        }
        if let Some(tcp) = &probe.tcp_socket {
            return Action::tcp(tcp, container, pod_ip);
        }
        let grpc = probe.grpc.as_ref().ok_or(ActionError::Missing)?;
        let port = u16::try_from(grpc.port).map_err(|_| ActionError::BadPort(grpc.port))?;
        let to = SocketAddr::new(address(None, pod_ip)?, port);
        Ok(Action::Grpc { to, service: grpc.service.clone().unwrap_or_default() })
    }

    pub(crate) fn exec(exec: &ExecAction) -> Action {
        Action::Exec(exec.command.clone().unwrap_or_default())
    }

    pub(crate) fn tcp(tcp: &TCPSocketAction, container: &Container, ip: Option<&str>) -> Result<Action, ActionError> {
        Ok(Action::Tcp(SocketAddr::new(address(tcp.host.as_deref(), ip)?, port(&tcp.port, container)?)))
    }

    pub(crate) fn http(get: &HTTPGetAction, container: &Container, ip: Option<&str>) -> Result<Action, ActionError> {
        let to = SocketAddr::new(address(get.host.as_deref(), ip)?, port(&get.port, container)?);
        let headers = get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
        let path = get.path.clone().unwrap_or_else(|| "/".to_owned());
        let tls = get.scheme.as_deref() == Some("HTTPS");
        Ok(Action::Http(http::Request { to, path, tls, headers }))
    }
}

fn address(host: Option<&str>, pod_ip: Option<&str>) -> Result<IpAddr, ActionError> {
    match host.filter(|h| !h.is_empty()) {
        Some("localhost") => Ok(IpAddr::from([127, 0, 0, 1])),
        Some(host) => host.parse().map_err(|_| ActionError::BadHost(host.to_owned())),
        None => pod_ip.and_then(|ip| ip.parse().ok()).ok_or(ActionError::NoAddress),
    }
}

fn port(port: &IntOrString, container: &Container) -> Result<u16, ActionError> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            let number = named.map(|p| p.container_port).or_else(|| name.parse().ok());
            number.ok_or_else(|| ActionError::NoPort(name.clone()))?
        }
    };
    u16::try_from(number).ok().filter(|p| *p > 0).ok_or(ActionError::BadPort(number))
}

/// Tries once, for no longer than `timeout`.
pub(crate) async fn perform(runtime: &Runtime, id: &ContainerId, action: &Action, timeout: Duration) -> Outcome {
    match action {
        Action::Exec(command) => exec(runtime, id, command, timeout).await,
        Action::Http(request) => http::get(request, timeout).await,
        Action::Tcp(to) => match tokio::time::timeout(timeout, TcpStream::connect(to)).await {
            Ok(Ok(_)) => Outcome { success: true, output: String::new() },
            Ok(Err(error)) => Outcome::failed(dial_error(*to, &error)),
            Err(_) => Outcome::failed(format!("dial tcp {to}: i/o timeout")),
        },
        Action::Grpc { to, service } => grpc::check(*to, service, timeout).await,
    }
}

/// As Go words it, for people look for these texts.
pub(super) fn dial_error(to: SocketAddr, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {to}: {why}")
}

async fn exec(runtime: &Runtime, id: &ContainerId, command: &[String], timeout: Duration) -> Outcome {
    let spec = ExecSpec { args: command.to_vec(), ..ExecSpec::default() };
    let mut session = match runtime.exec(id, spec).await {
        Ok(session) => session,
        Err(error) => return Outcome::failed(chain(&error)),
    };
    drop(session.stdin.take());
    let control = session.control.clone();
    let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
    let work = async {
        let (out, err) = tokio::join!(read(stdout), read(stderr));
        (out + &err, session.wait().await)
    };
    match tokio::time::timeout(timeout, work).await {
        Ok((output, Ok(0))) => Outcome { success: true, output },
        Ok((output, Ok(code))) => {
            let mut output = output;
            if output.is_empty() {
                output = format!("command terminated with exit code {code}");
            }
            Outcome::failed(output)
        }
        Ok((_, Err(error))) => Outcome::failed(chain(&error)),
        Err(_) => {
            control.kill(SIGKILL).await;
            Outcome::failed(format!(
                "command timed out: \"{}\" timed out after {}s",
                command.join(" "),
                timeout.as_secs()
            ))
        }
    }
}

/// Reads to the end, keeping the beginning.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let mut limited = stream.take(MAX_OUTPUT);
    if let Err(error) = limited.read_to_end(&mut kept).await {
        tracing::debug!(error = %error, "cannot read a probe's output");
    }
    let mut rest = limited.into_inner();
    if let Err(error) = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await {
        tracing::debug!(error = %error, "cannot read a probe's output");
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container() -> Container {
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap()
    }

    fn action(probe: serde_json::Value) -> Result<Action, ActionError> {
        Action::of_probe(&serde_json::from_value(probe).unwrap(), &container(), Some("10.42.0.7"))
    }

    #[test]
    fn ports_may_be_named_and_hosts_given() {
        let Action::Tcp(to) = action(json!({"tcpSocket": {"port": "web"}})).unwrap() else { panic!("not tcp") };
        assert_eq!(to.to_string(), "10.42.0.7:8080");
        let get = json!({"httpGet": {"port": 81, "host": "127.0.0.1", "path": "/x", "scheme": "HTTPS"}});
        let Action::Http(request) = action(get).unwrap() else { panic!("not http") };
        assert_eq!((request.to.to_string().as_str(), request.tls), ("127.0.0.1:81", true));
        assert!(matches!(action(json!({"tcpSocket": {"port": "none"}})), Err(ActionError::NoPort(_))));
        assert!(matches!(action(json!({"tcpSocket": {"port": 70000}})), Err(ActionError::BadPort(70000))));
        assert!(matches!(action(json!({})), Err(ActionError::Missing)));
    }

    #[test]
    fn refused_connections_read_as_go_words_them() {
        let error = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let text = dial_error("10.0.0.1:80".parse().unwrap(), &error);
        assert_eq!(text, "dial tcp 10.0.0.1:80: connect: connection refused");
    }
}
