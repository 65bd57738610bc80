//! Probes and lifecycle handlers.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Scope;
use super::containers::port_number;
use crate::field::{Errors, Path};
use crate::names;
use crate::validation::{check, non_negative, one_of, text};

/// Lifecycle and probes of a regular container or a sidecar.
pub(super) fn container(errors: &mut Errors, path: &Path<'_>, container: &Container, scope: &Scope<'_>) {
    let grace = scope.spec.termination_grace_period_seconds;
    if let Some(lifecycle) = &container.lifecycle {
        let path = &path.child("lifecycle");
        for (field, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            if let Some(handler) = handler {
                Handler::from(handler).validate(errors, &path.child(field), grace);
            }
        }
        if lifecycle.stop_signal.is_some() && scope.spec.os.is_none() {
            errors.forbidden(&path.child("stopSignal"), "may not be set for containers with empty `spec.os.name`");
        }
    }
    if let Some(probe) = &container.liveness_probe {
        let path = &path.child("livenessProbe");
        self::probe(errors, path, probe);
        succeeds_once(errors, path, probe);
    }
    if let Some(probe) = &container.readiness_probe {
        let path = &path.child("readinessProbe");
        self::probe(errors, path, probe);
        if let Some(seconds) = probe.termination_grace_period_seconds {
            let detail = "must not be set for readinessProbes";
            errors.invalid(&path.child("terminationGracePeriodSeconds"), seconds, detail);
        }
    }
    if let Some(probe) = &container.startup_probe {
        let path = &path.child("startupProbe");
        self::probe(errors, path, probe);
        succeeds_once(errors, path, probe);
    }
}

fn succeeds_once(errors: &mut Errors, path: &Path<'_>, probe: &Probe) {
    let threshold = probe.success_threshold.unwrap_or(0);
    if threshold != 1 {
        errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
    }
}

fn probe(errors: &mut Errors, path: &Path<'_>, probe: &Probe) {
    Handler::from(probe).validate(errors, path, None);
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, number) in numbers {
        non_negative(errors, &path.child(field), number.unwrap_or(0));
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        errors.invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

#[derive(Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

impl<'a> From<&'a Probe> for Handler<'a> {
    fn from(probe: &'a Probe) -> Self {
        Self {
            exec: probe.exec.as_ref(),
            http_get: probe.http_get.as_ref(),
            tcp_socket: probe.tcp_socket.as_ref(),
            grpc: probe.grpc.as_ref(),
            sleep: None,
        }
    }
}

impl<'a> From<&'a LifecycleHandler> for Handler<'a> {
    fn from(handler: &'a LifecycleHandler) -> Self {
        Self {
            exec: handler.exec.as_ref(),
            http_get: handler.http_get.as_ref(),
            tcp_socket: handler.tcp_socket.as_ref(),
            grpc: None,
            sleep: handler.sleep.as_ref(),
        }
    }
}

impl Handler<'_> {
    /// Exactly one handler, and that one sound.
    fn validate(&self, errors: &mut Errors, path: &Path<'_>, grace: Option<i64>) {
        let mut first = true;
        let mut only = |errors: &mut Errors, path: &Path<'_>| {
            if !first {
                errors.forbidden(path, "may not specify more than 1 handler type");
            }
            std::mem::replace(&mut first, false)
        };
        if let Some(exec) = self.exec
            && only(errors, &path.child("exec"))
            && exec.command.as_deref().unwrap_or_default().is_empty()
        {
            errors.required(&path.child("exec.command"), "");
        }
        if let Some(get) = self.http_get
            && only(errors, &path.child("httpGet"))
        {
            http_get(errors, &path.child("httpGet"), get);
        }
        if let Some(tcp) = self.tcp_socket
            && only(errors, &path.child("tcpSocket"))
        {
            port(errors, &path.child("tcpSocket.port"), &tcp.port);
        }
        if let Some(grpc) = self.grpc
            && only(errors, &path.child("grpc"))
        {
            port_number(errors, &path.child("grpc.port"), grpc.port);
        }
        if let Some(action) = self.sleep
            && only(errors, &path.child("sleep"))
        {
            sleep(errors, &path.child("sleep"), action, grace);
        }
        if first {
            errors.required(path, "must specify a handler type");
        }
    }
}

fn sleep(errors: &mut Errors, path: &Path<'_>, action: &SleepAction, grace: Option<i64>) {
    if let Some(grace) = grace
        && !(0..=grace).contains(&action.seconds)
    {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(path, action.seconds, &detail);
    }
}

fn http_get(errors: &mut Errors, path: &Path<'_>, get: &HTTPGetAction) {
    if text(get.path.as_ref()).is_empty() {
        errors.required(&path.child("path"), "");
    }
    port(errors, &path.child("port"), &get.port);
    one_of(errors, &path.child("scheme"), text(get.scheme.as_ref()), &["HTTP", "HTTPS"]);
    for header in get.http_headers.iter().flatten() {
        check(errors, &path.child("httpHeaders"), &header.name, names::http_header_name(&header.name));
    }
}

/// A port by number or by name.
pub(crate) fn port(errors: &mut Errors, path: &Path<'_>, port: &IntOrString) {
    match port {
        IntOrString::Int(number) => port_number(errors, path, *number),
        IntOrString::String(name) => check(errors, path, name, names::port_name(name)),
    }
}
