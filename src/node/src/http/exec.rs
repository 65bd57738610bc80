//! Exec, attach, run and port-forward: what a request asks for is looked up and negotiated here; the conversation on
//! the upgraded connection is [`crate::streaming`]'s.

use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use runtime::ExecSpec;
use runtime::spec::AttachSpec;
use tokio::io::AsyncReadExt;

use super::Api;
use super::answer::{self, Body};
use super::query::{self, QueryError, StreamQuery};
use super::route::{PodPath, Target};
use crate::streaming::command::{Command, Kind, Wanted};
use crate::streaming::port_forward::{self, Destination};
use crate::streaming::protocol::{self, Upgrade, UpgradeError};
use crate::streaming::{channels, spdy_command};
use crate::{ContainerHandle, LookupError};

/// The most that `/run` answers.
const MAX_RUN: u64 = 4 << 20;

type Refused = (StatusCode, String);

fn refuse((status, text): Refused) -> Response<Body> {
    answer::text(status, text)
}

fn bad_request(error: impl Display) -> Refused {
    (StatusCode::BAD_REQUEST, error.to_string())
}

/// The container, which must be running. The words are the kubelet's.
fn running(api: &Api, target: &Target) -> Result<ContainerHandle, Refused> {
    let Target { pod, container } = target;
    let found = api.host.container(&pod.namespace, &pod.name, pod.uid.as_deref(), container, false);
    let not_running = || (StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{container}\")"));
    match found {
        Ok(found) if found.running => Ok(found),
        Err(LookupError::NoPod(_)) => Err((StatusCode::NOT_FOUND, "pod does not exist".to_owned())),
        Ok(_) | Err(_) => Err(not_running()),
    }
}

fn wanted(query: &StreamQuery) -> Wanted {
    Wanted { stdin: query.stdin, stdout: query.stdout, stderr: query.stderr, tty: query.tty }
}

fn parse<T>(request: &Request<Incoming>, parse: impl Fn(&str) -> Result<T, QueryError>) -> Result<T, Refused> {
    parse(request.uri().query().unwrap_or_default()).map_err(bad_request)
}

pub(super) fn exec(api: &Arc<Api>, target: &Target, request: Request<Incoming>) -> Response<Body> {
    let prepared = parse(&request, StreamQuery::with_command).and_then(|q| Ok((running(api, target)?, q)));
    let (container, query) = match prepared {
        Ok(prepared) => prepared,
        Err(refused) => return refuse(refused),
    };
    let host = api.host.clone();
    let wanted = wanted(&query);
    let spec = ExecSpec { args: query.command.clone(), tty: query.tty, stdin: query.stdin, ..ExecSpec::default() };
    let start = Box::pin(async move { host.exec(&container.id, spec).await });
    command(api, request, Command { kind: Kind::Exec(query.command), wanted, start })
}

pub(super) fn attach(api: &Arc<Api>, target: &Target, request: Request<Incoming>) -> Response<Body> {
    let prepared = parse(&request, StreamQuery::parse).and_then(|q| Ok((running(api, target)?, q)));
    let (container, query) = match prepared {
        Ok(prepared) => prepared,
        Err(refused) => return refuse(refused),
    };
    let host = api.host.clone();
    let wanted = wanted(&query);
    // Whether there is a terminal was decided when the container was made.
    let spec = AttachSpec {
        stdin: query.stdin && container.stdin,
        stdout: query.stdout,
        stderr: query.stderr && !container.tty,
        size: None,
    };
    let start = Box::pin(async move { host.attach(&container.id, spec).await });
    command(api, request, Command { kind: Kind::Attach, wanted, start })
}

/// Runs a command without input and answers with what it printed.
pub(super) async fn run(api: &Arc<Api>, target: &Target, request: &Request<Incoming>) -> Response<Body> {
    let prepared = parse(request, query::run_command).and_then(|c| Ok((running(api, target)?, c)));
    let (container, args) = match prepared {
        Ok(prepared) => prepared,
        Err(refused) => return refuse(refused),
    };
    let failed = |error: &dyn Error| answer::text(StatusCode::INTERNAL_SERVER_ERROR, crate::network::chain(error));
    let process = match api.host.exec(&container.id, ExecSpec { args, ..ExecSpec::default() }).await {
        Ok(process) => process,
        Err(error) => return failed(&error),
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let read = async |stream: Option<super::host::Output>, into: &mut Vec<u8>| match stream {
        Some(stream) => stream.take(MAX_RUN).read_to_end(into).await.map(drop),
        None => Ok(()),
    };
    match tokio::try_join!(read(process.stdout, &mut out), read(process.stderr, &mut err)) {
        Ok(_) => {}
        Err(error) => return failed(&error),
    }
    out.append(&mut err);
    match process.exit.await {
        Ok(0) => answer::typed(StatusCode::OK, "text/plain; charset=utf-8", out),
        Ok(code) => {
            let text = format!("command terminated with exit code {code}: {}", String::from_utf8_lossy(&out));
            answer::text(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
        Err(error) => failed(&error),
    }
}

pub(super) fn port_forward(api: &Arc<Api>, pod: &PodPath, request: Request<Incoming>) -> Response<Body> {
    match destination(api, pod) {
        Ok(destination) => forward(api, request, destination),
        Err(refused) => refuse(refused),
    }
}

fn destination(api: &Api, path: &PodPath) -> Result<Destination, Refused> {
    let found = api.host.pod(&path.namespace, &path.name, path.uid.as_deref());
    let pod = found.map_err(|_| (StatusCode::NOT_FOUND, "pod does not exist".to_owned()))?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let netns = api.host.netns(&uid).ok_or_else(|| {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Unknown");
        bad_request(format!("unable to forward port because pod is not running. Current status={phase}"))
    })?;
    Ok(Destination { pod: path.name.clone(), uid, netns })
}

fn command(api: &Api, request: Request<Incoming>, command: Command) -> Response<Body> {
    let negotiated = Upgrade::of(request.headers()).and_then(|upgrade| {
        let (name, offered) = match upgrade {
            Upgrade::Spdy => (protocol::STREAM_PROTOCOL, protocol::SPDY_COMMAND),
            Upgrade::WebSocket { .. } => (header::SEC_WEBSOCKET_PROTOCOL, protocol::WEBSOCKET_COMMAND),
        };
        Ok((protocol::choose(request.headers(), name, offered)?, upgrade))
    });
    match negotiated {
        Ok((chosen, Upgrade::Spdy)) => upgrade(api, request, switch_to_spdy(chosen), move |io| {
            spdy_command::serve(io, chosen.unwrap_or("channel.k8s.io"), command)
        }),
        Ok((chosen, Upgrade::WebSocket { accept })) => {
            upgrade(api, request, switch_to_websocket(&accept, chosen), move |io| {
                channels::serve(io, chosen.unwrap_or("channel.k8s.io"), command)
            })
        }
        Err(error) => not_upgraded(error),
    }
}

fn forward(api: &Api, request: Request<Incoming>, destination: Destination) -> Response<Body> {
    let headers = request.headers();
    let websocket = |accept: String| {
        let chosen = protocol::choose(headers, header::SEC_WEBSOCKET_PROTOCOL, protocol::WEBSOCKET_PORT_FORWARD)?;
        Ok((accept, chosen.unwrap_or("v4.channel.k8s.io")))
    };
    match Upgrade::of(headers) {
        Ok(Upgrade::Spdy) => match protocol::choose(headers, protocol::STREAM_PROTOCOL, &[protocol::PORT_FORWARD]) {
            Ok(chosen) => upgrade(api, request, switch_to_spdy(chosen), |io| port_forward::serve(io, destination)),
            Err(error) => not_upgraded(error),
        },
        Ok(Upgrade::WebSocket { accept }) => match websocket(accept) {
            Ok((accept, protocol::TUNNEL)) => {
                let response = switch_to_websocket(&accept, Some(protocol::TUNNEL));
                upgrade(api, request, response, |io| port_forward::serve_tunnel(io, destination))
            }
            Ok((accept, chosen)) => match parse(&request, query::ports) {
                Ok(ports) if !ports.is_empty() => {
                    let response = switch_to_websocket(&accept, Some(chosen));
                    upgrade(api, request, response, move |io| {
                        port_forward::serve_channels(io, chosen, ports, destination)
                    })
                }
                Ok(_) => refuse(bad_request("query parameter \"ports\" is required")),
                Err(refused) => refuse(refused),
            },
            Err(error) => not_upgraded(error),
        },
        Err(error) => not_upgraded(error),
    }
}

fn not_upgraded(error: UpgradeError) -> Response<Body> {
    let status = match error {
        UpgradeError::Missing | UpgradeError::Version => StatusCode::BAD_REQUEST,
        UpgradeError::Protocol => StatusCode::FORBIDDEN,
    };
    answer::text(status, error)
}

fn switch_to_spdy(protocol: Option<&'static str>) -> Response<Body> {
    let mut response = answer::switching("SPDY/3.1");
    if let Some(protocol) = protocol {
        response.headers_mut().insert(protocol::STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}

fn switch_to_websocket(accept: &str, protocol: Option<&'static str>) -> Response<Body> {
    let mut response = answer::switching("websocket");
    let headers = response.headers_mut();
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}

/// Answers with the switch, and runs the conversation once the connection is free for it.
fn upgrade<F, C>(api: &Api, request: Request<Incoming>, response: Response<Body>, conversation: F) -> Response<Body>
where
    F: FnOnce(TokioIo<Upgraded>) -> C + Send + 'static,
    C: Future<Output = ()> + Send + 'static,
{
    let upgraded = hyper::upgrade::on(request);
    api.spawn(async move {
        match upgraded.await {
            Ok(io) => conversation(TokioIo::new(io)).await,
            Err(error) => tracing::debug!(%error, "connection was not upgraded"),
        }
    });
    response
}
