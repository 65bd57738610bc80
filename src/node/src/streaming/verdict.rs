//! How a remote command ended, as the error stream tells it. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};

/// The form of the verdict: a Status since version 4, bare text (and nothing on success) before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Status,
    Text,
}

impl Form {
    pub(crate) fn of(protocol: &str) -> Form {
        let number = protocol.strip_prefix('v').and_then(|p| p.split('.').next()).and_then(|n| n.parse().ok());
        if number.unwrap_or(1) >= 4 { Form::Status } else { Form::Text }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done,
    Exit {
        command: Vec<String>,
        code: i32,
    },
    /// The command could not be run, or its end is not known.
    Failed(String),
}

impl Verdict {
    /// The bytes for the error stream; may be none.
    pub(crate) fn encode(&self, form: Form) -> Vec<u8> {
        match form {
            Form::Text if *self == Verdict::Done => Vec::new(),
            Form::Text => self.message().into_bytes(),
            // A Status of plain fields always serializes.
            Form::Status => serde_json::to_vec(&self.status()).unwrap_or_default(),
        }
    }

    fn message(&self) -> String {
        match self {
            Verdict::Done => String::new(),
            Verdict::Exit { command, code } => format!(
                "command terminated with non-zero exit code: error executing command [{}], exit code {code}",
                command.join(" ")
            ),
            Verdict::Failed(why) => format!("Internal error occurred: {why}"),
        }
    }

    fn status(&self) -> Status {
        let cause = |reason: Option<&str>, message: String| StatusCause {
            reason: reason.map(str::to_owned),
            message: Some(message),
            field: None,
        };
        let failure = |reason: &str, cause: StatusCause, code| Status {
            status: Some("Failure".to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(self.message()),
            details: Some(StatusDetails { causes: Some(vec![cause]), ..StatusDetails::default() }),
            code,
            ..Status::default()
        };
        match self {
            Verdict::Done => Status { status: Some("Success".to_owned()), ..Status::default() },
            Verdict::Exit { code, .. } => failure("NonZeroExitCode", cause(Some("ExitCode"), code.to_string()), None),
            Verdict::Failed(why) => failure("InternalError", cause(None, why.clone()), Some(500)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(verdict: &Verdict) -> serde_json::Value {
        serde_json::from_slice(&verdict.encode(Form::Status)).unwrap()
    }

    #[test]
    fn the_exit_code_is_a_cause() {
        let status = json(&Verdict::Exit { command: vec!["sh".into(), "-c".into(), "exit 3".into()], code: 3 });
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "3");
        let message = status["message"].as_str().unwrap();
        assert!(message.starts_with("command terminated with non-zero exit code: "), "{message}");
    }

    #[test]
    fn success_is_a_status_or_nothing() {
        assert_eq!(json(&Verdict::Done)["status"], "Success");
        assert!(Verdict::Done.encode(Form::Text).is_empty());
    }

    #[test]
    fn versions_from_four_on_get_a_status() {
        for (protocol, form) in [
            ("v5.channel.k8s.io", Form::Status),
            ("v4.base64.channel.k8s.io", Form::Status),
            ("v3.channel.k8s.io", Form::Text),
            ("channel.k8s.io", Form::Text),
            ("base64.channel.k8s.io", Form::Text),
            ("", Form::Text),
        ] {
            assert_eq!(Form::of(protocol), form, "{protocol}");
        }
    }
}
