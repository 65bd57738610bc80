//! `metav1.Status` as an error: every failure a user sees is one of these.
//!
//! Constructors use the wording of upstream's `apimachinery/pkg/api/errors`, which clients compare. The HTTP
//! code travels inside, so that the server's edge only has to write it out. Used by the API server for every
//! error answer, by strategies for validation, and by clients that read a Status back.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::field::FieldError;

/// Machine-readable reason of a failure (`metav1.StatusReason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Reason {
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
    /// None given, or one that this version does not know.
    #[default]
    #[serde(rename = "", other)]
    Unknown,
}

impl Reason {
    fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }
}

/// A group-qualified name: of a resource (`deployments.apps`) or of a kind (`Deployment.apps`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qualified<'a> {
    pub group: &'a str,
    pub name: &'a str,
}

impl<'a> Qualified<'a> {
    pub fn new(group: &'a str, name: &'a str) -> Self {
        Self { group, name }
    }
}

impl fmt::Display for Qualified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// One entry of `details.causes`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// `metav1.StatusDetails`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Body {
    status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Reason::is_unknown")]
    reason: Reason,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    code: u16,
    /// Goes out as `metadata.continue`.
    #[serde(skip)]
    continue_token: String,
}

/// A failed (or, rarely, successful) answer of the API. Cheap to move: one pointer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Status(Box<Body>);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Status {}

impl Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Wire<'a> {
            kind: &'static str,
            #[serde(rename = "apiVersion")]
            api_version: &'static str,
            metadata: Meta<'a>,
            #[serde(flatten)]
            body: &'a Body,
        }
        #[derive(Serialize)]
        struct Meta<'a> {
            #[serde(rename = "continue", skip_serializing_if = "str::is_empty")]
            continue_token: &'a str,
        }
        let metadata = Meta { continue_token: &self.0.continue_token };
        Wire { kind: "Status", api_version: "v1", metadata, body: &self.0 }.serialize(serializer)
    }
}

impl Status {
    fn failure(code: u16, reason: Reason, message: String, details: Option<Details>) -> Self {
        let status = "Failure".to_owned();
        Self(Box::new(Body { status, message, reason, details, code, continue_token: String::new() }))
    }

    fn on(code: u16, reason: Reason, resource: Qualified<'_>, name: &str, message: String) -> Self {
        Self::failure(code, reason, message, Some(details(resource, name)))
    }

    /// The answer to a delete that removed the object at once.
    pub fn deleted(resource: Qualified<'_>, name: &str, uid: &str) -> Self {
        let details = Details { uid: uid.to_owned(), ..details(resource, name) };
        Self(Box::new(Body { status: "Success".to_owned(), details: Some(details), code: 200, ..Body::default() }))
    }

    /// A bare success, as `deletecollection` and binding answer.
    pub fn success(code: u16) -> Self {
        Self(Box::new(Body { status: "Success".to_owned(), code, ..Body::default() }))
    }

    pub fn not_found(resource: Qualified<'_>, name: &str) -> Self {
        Self::on(404, Reason::NotFound, resource, name, format!("{resource} {} not found", quote(name)))
    }

    /// The answer for a path that names no resource at all.
    pub fn unknown_path() -> Self {
        let message = "the server could not find the requested resource".to_owned();
        Self::failure(404, Reason::NotFound, message, Some(Details::default()))
    }

    pub fn already_exists(resource: Qualified<'_>, name: &str) -> Self {
        Self::on(409, Reason::AlreadyExists, resource, name, format!("{resource} {} already exists", quote(name)))
    }

    /// Every generated name that was tried was taken.
    pub fn generated_name_taken(resource: Qualified<'_>, name: &str) -> Self {
        let message = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            quote(name)
        );
        Self::on(409, Reason::AlreadyExists, resource, name, message).with_retry_after(1)
    }

    pub fn conflict(resource: Qualified<'_>, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {}: {why}", quote(name));
        Self::on(409, Reason::Conflict, resource, name, message)
    }

    /// The resource version sent is not the stored one.
    pub fn modified(resource: Qualified<'_>, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// Server-side apply met fields owned by other managers.
    pub fn apply_conflict(causes: Vec<Cause>, message: String) -> Self {
        Self::failure(409, Reason::Conflict, message, Some(Details { causes, ..Details::default() }))
    }

    pub fn invalid(kind: Qualified<'_>, name: &str, errors: &[FieldError]) -> Self {
        let causes = errors.iter().map(FieldError::cause).collect();
        let mut message = format!("{kind} {} is invalid", quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&crate::field::aggregate(errors));
        }
        Self::failure(422, Reason::Invalid, message, Some(Details { causes, ..details(kind, name) }))
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, Reason::BadRequest, message.into(), None)
    }

    pub fn unauthorized() -> Self {
        Self::failure(401, Reason::Unauthorized, "Unauthorized".to_owned(), None)
    }

    /// Admission, or a rule of the kind, refuses. `name` may be empty.
    pub fn forbidden(resource: Qualified<'_>, name: &str, why: &str) -> Self {
        let message = match (resource.name, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{resource} is forbidden: {why}"),
            _ => format!("{resource} {} is forbidden: {why}", quote(name)),
        };
        Self::on(403, Reason::Forbidden, resource, name, message)
    }

    /// A non-resource path the user may not use.
    pub fn forbidden_path(user: &str, verb: &str, path: &str) -> Self {
        let message = format!("forbidden: User {} cannot {verb} path {}", quote(user), quote(path));
        Self::failure(403, Reason::Forbidden, message, Some(Details::default()))
    }

    /// The watch or list revision has been compacted away.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, Reason::Expired, message.into(), None)
    }

    /// [`Status::expired`] with the wording watchers know: the revision asked for and the oldest one kept.
    pub fn too_old(requested: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {requested} ({oldest})"))
    }

    /// A list's continue token points at a compacted revision. `token` goes on from the same place in whatever state
    /// is the newest then.
    pub fn continue_expired(token: String) -> Self {
        let mut status = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
        );
        status.0.continue_token = token;
        status
    }

    /// A revision from the future was asked for.
    pub fn too_large_revision(requested: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {requested}, current: {current}");
        let cause = Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        };
        let details = Details { causes: vec![cause], retry_after_seconds: 1, ..Details::default() };
        Self::failure(504, Reason::Timeout, format!("Timeout: {message}"), Some(details))
    }

    /// Try again after the given number of seconds (eviction blocked by a budget, overload).
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        Self::failure(429, Reason::TooManyRequests, message.into(), Some(details))
    }

    pub fn timeout(message: &str, retry_after_seconds: u32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        Self::failure(504, Reason::Timeout, format!("Timeout: {message}"), Some(details))
    }

    /// The HTTP method means nothing on this path.
    pub fn method_not_on_path() -> Self {
        let message = "the server does not allow this method on the requested resource".to_owned();
        Self::failure(405, Reason::MethodNotAllowed, message, Some(Details::default()))
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::failure(406, Reason::NotAcceptable, message, None)
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::failure(415, Reason::UnsupportedMediaType, message, None)
    }

    pub fn too_large(message: &str) -> Self {
        let message = format!("Request entity too large: {message}");
        Self::failure(413, Reason::RequestEntityTooLarge, message, None)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, Reason::ServiceUnavailable, message.into(), None)
    }

    pub fn internal(error: impl fmt::Display) -> Self {
        let cause = Cause { message: error.to_string(), ..Cause::default() };
        let details = Details { causes: vec![cause], ..Details::default() };
        Self::failure(500, Reason::InternalError, format!("Internal error occurred: {error}"), Some(details))
    }

    /// A failure whose parts were made elsewhere (an admission webhook's answer, another server's).
    pub fn custom(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self::failure(code, reason, message.into(), None)
    }

    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let cause = Cause { reason: reason.to_owned(), message: message.to_owned(), field: field.to_owned() };
        self.0.details.get_or_insert_default().causes.push(cause);
        self
    }

    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.0.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    pub fn code(&self) -> u16 {
        self.0.code
    }

    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn details(&self) -> Option<&Details> {
        self.0.details.as_ref()
    }

    /// Seconds for the `Retry-After` header, when the client should come again.
    pub fn retry_after(&self) -> Option<u32> {
        self.0.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0)
    }

    pub fn is_not_found(&self) -> bool {
        self.0.reason == Reason::NotFound
    }

    pub fn is_conflict(&self) -> bool {
        self.0.reason == Reason::Conflict
    }

    /// The bytes to answer with.
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of strings and numbers always serializes; an empty body is still a valid HTTP answer.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn details(resource: Qualified<'_>, name: &str) -> Details {
    Details {
        name: name.to_owned(),
        group: resource.group.to_owned(),
        kind: resource.name.to_owned(),
        ..Details::default()
    }
}

/// Quotes as Go's `%q` does for the text that occurs in messages.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Errors, Path};

    const PODS: Qualified<'static> = Qualified { group: "", name: "pods" };

    #[test]
    fn not_found_has_upstream_shape() {
        let json = serde_json::to_value(Status::not_found(Qualified::new("apps", "deployments"), "web")).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "deployments.apps \"web\" not found", "reason": "NotFound",
                "details": {"name": "web", "group": "apps", "kind": "deployments"}, "code": 404
            })
        );
    }

    #[test]
    fn conflict_and_expired_wording() {
        assert_eq!(
            Status::modified(PODS, "x").message(),
            "Operation cannot be fulfilled on pods \"x\": the object has been modified; please apply your changes to the latest version and try again"
        );
        assert_eq!(Status::too_old(1, 5).message(), "too old resource version: 1 (5)");
        assert_eq!(Status::too_old(1, 5).code(), 410);
    }

    #[test]
    fn invalid_lists_causes_and_joins_errors() {
        let kind = Qualified::new("apps", "Deployment");
        let mut errors = Errors::default();
        let spec = Path::root("spec");
        errors.invalid(&spec.child("replicas"), -1, "must be greater than or equal to 0");
        let one = Status::invalid(kind, "x", errors.as_slice());
        assert_eq!(
            one.message(),
            "Deployment.apps \"x\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        assert_eq!(one.details().unwrap().causes[0].reason, "FieldValueInvalid");
        errors.required(&spec.child("selector"), "");
        assert_eq!(
            Status::invalid(kind, "x", errors.as_slice()).message(),
            "Deployment.apps \"x\" is invalid: [spec.replicas: Invalid value: -1: must be greater than or equal to 0, spec.selector: Required value]"
        );
    }

    #[test]
    fn forbidden_wording() {
        assert_eq!(Status::forbidden(PODS, "x", "no").message(), "pods \"x\" is forbidden: no");
        assert_eq!(Status::forbidden(PODS, "", "no").message(), "pods is forbidden: no");
    }

    #[test]
    fn a_status_reads_back_from_json() {
        let status = Status::already_exists(PODS, "x");
        assert_eq!(serde_json::from_slice::<Status>(&status.to_json()).unwrap(), status);
    }

    #[test]
    fn success_has_no_reason() {
        let json = serde_json::to_value(Status::success(201)).unwrap();
        assert_eq!(json["status"], "Success");
        assert!(json.get("reason").is_none_or(|r| r == ""));
    }
}
