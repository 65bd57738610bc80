//! Request line → what is wanted. Pure.

use std::fmt;
use std::net::SocketAddr;

use http::{Method, StatusCode, Uri};
use percent_encoding::percent_decode_str;

/// A container in a path. An empty `uid` in the path's place is no UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) pod: PodPath,
    pub(super) container: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodPath {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: Option<String>,
}

/// All the API offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Healthz,
    Pods,
    RunningPods,
    Logs(Target),
    Exec(Target),
    Attach(Target),
    Run(Target),
    PortForward(PodPath),
    StatsSummary,
    Metrics,
    ResourceMetrics,
    CadvisorMetrics,
    Configz,
    /// A byte stream to an address as seen from this node.
    Connect(SocketAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotFound,
    Method,
    /// CONNECT takes an address and a port: names are resolved by who asks.
    Authority,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Authority => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "404 page not found",
            Self::Method => "405: Method Not Allowed",
            Self::Authority => "CONNECT takes ADDRESS:PORT",
        })
    }
}

impl Route {
    pub(super) fn of(method: &Method, uri: &Uri) -> Result<Route, Refusal> {
        if method == Method::CONNECT {
            let address = uri.authority().and_then(|a| a.as_str().parse().ok());
            return address.map(Route::Connect).ok_or(Refusal::Authority);
        }
        let segments: Vec<String> = uri.path().split('/').filter(|s| !s.is_empty()).map(decode).collect();
        let route = Self::by_path(&segments).ok_or(Refusal::NotFound)?;
        let allowed = match route {
            Route::Exec(_) | Route::Attach(_) | Route::PortForward(_) => matches!(*method, Method::GET | Method::POST),
            Route::Run(_) => *method == Method::POST,
            _ => matches!(*method, Method::GET | Method::HEAD),
        };
        if allowed { Ok(route) } else { Err(Refusal::Method) }
    }

    fn by_path(segments: &[String]) -> Option<Route> {
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        Some(match words.as_slice() {
            ["healthz"] => Route::Healthz,
            ["pods"] => Route::Pods,
            ["runningpods"] => Route::RunningPods,
            ["stats", "summary"] => Route::StatsSummary,
            ["metrics"] => Route::Metrics,
            ["metrics", "resource"] => Route::ResourceMetrics,
            ["metrics", "cadvisor"] => Route::CadvisorMetrics,
            ["configz"] => Route::Configz,
            ["containerLogs", namespace, pod, container] => Route::Logs(target(namespace, pod, None, container)),
            ["exec", rest @ ..] => Route::Exec(container_path(rest)?),
            ["attach", rest @ ..] => Route::Attach(container_path(rest)?),
            ["run", rest @ ..] => Route::Run(container_path(rest)?),
            ["portForward", namespace, pod] => Route::PortForward(pod_path(namespace, pod, None)),
            ["portForward", namespace, pod, uid] => Route::PortForward(pod_path(namespace, pod, Some(uid))),
            _ => return None,
        })
    }
}

fn container_path(words: &[&str]) -> Option<Target> {
    match words {
        [namespace, pod, container] => Some(target(namespace, pod, None, container)),
        [namespace, pod, uid, container] => Some(target(namespace, pod, Some(uid), container)),
        _ => None,
    }
}

fn target(namespace: &str, pod: &str, uid: Option<&str>, container: &str) -> Target {
    Target { pod: pod_path(namespace, pod, uid), container: container.to_owned() }
}

fn pod_path(namespace: &str, name: &str, uid: Option<&str>) -> PodPath {
    PodPath { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.map(str::to_owned) }
}

fn decode(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: Method, uri: &str) -> Result<Route, Refusal> {
        Route::of(&method, &uri.parse().unwrap())
    }

    #[test]
    fn containers_are_named_with_and_without_a_uid() {
        let short = route(Method::GET, "/exec/default/web/app?command=id").unwrap();
        assert_eq!(short, Route::Exec(target("default", "web", None, "app")));
        let long = route(Method::POST, "/attach/default/web/4f-1/app").unwrap();
        assert_eq!(long, Route::Attach(target("default", "web", Some("4f-1"), "app")));
        assert_eq!(route(Method::GET, "/exec/default/web"), Err(Refusal::NotFound));
    }

    #[test]
    fn slashes_at_the_end_and_escapes_do_not_matter() {
        assert_eq!(route(Method::GET, "/runningpods/"), Ok(Route::RunningPods));
        let logs = route(Method::GET, "/containerLogs/default/a%2Db/c").unwrap();
        assert_eq!(logs, Route::Logs(target("default", "a-b", None, "c")));
    }

    #[test]
    fn connect_takes_addresses_only() {
        let to = |authority: &str| Route::of(&Method::CONNECT, &Uri::builder().authority(authority).build().unwrap());
        assert_eq!(to("10.42.0.7:8080"), Ok(Route::Connect("10.42.0.7:8080".parse().unwrap())));
        assert_eq!(to("[::1]:80"), Ok(Route::Connect("[::1]:80".parse().unwrap())));
        assert_eq!(to("example.org:80"), Err(Refusal::Authority));
    }

    #[test]
    fn a_wrong_method_is_told_from_a_wrong_path() {
        assert_eq!(route(Method::DELETE, "/pods"), Err(Refusal::Method));
        assert_eq!(route(Method::GET, "/run/default/web/app"), Err(Refusal::Method));
        assert_eq!(route(Method::GET, "/nothing"), Err(Refusal::NotFound));
    }
}
