//! Optimistic concurrency: try a read-modify-write again when somebody else wrote first.

use std::time::Duration;

/// Attempts in all, as client-go's default retry has it.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// Runs `attempt` until it ends in anything but a conflict (409 Conflict), at most five times. `attempt` must read
/// the object afresh each time.
pub async fn retry_on_conflict<T, F, Fut>(mut attempt: F) -> kube::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = kube::Result<T>>,
{
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(error) if is_conflict(&error) => {
                tokio::time::sleep(PAUSE.mul_f64(rand::random_range(1.0..1.5))).await;
            }
            other => return other,
        }
    }
    attempt().await
}

/// Whether the server refused a write because the object has changed since it was read.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason != "AlreadyExists")
}

pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
}

pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the server said 403 with the cause that the namespace is going away: creating there cannot succeed.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.code == 403
        && (status.message.contains("because it is being terminated")
            || status.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating")))
}

/// `Ok(None)` instead of an error when the object is not there.
pub fn optional<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use kube::core::Status;

    use super::*;

    fn conflict() -> kube::Error {
        kube::Error::Api(Status::failure("changed", "Conflict").with_code(409).boxed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_is_tried_again() {
        let calls = Cell::new(0);
        let result = retry_on_conflict(|| async {
            calls.set(calls.get() + 1);
            if calls.get() < 3 { Err(conflict()) } else { Ok(calls.get()) }
        })
        .await;
        assert_eq!(result.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn conflicts_without_end_are_given_up_after_five_attempts() {
        let calls = Cell::new(0);
        let result: kube::Result<()> = retry_on_conflict(|| async {
            calls.set(calls.get() + 1);
            Err(conflict())
        })
        .await;
        assert!(is_conflict(&result.unwrap_err()));
        assert_eq!(calls.get(), 5);
    }

    #[tokio::test]
    async fn other_errors_are_returned_at_once() {
        let calls = Cell::new(0);
        let result: kube::Result<()> = retry_on_conflict(|| async {
            calls.set(calls.get() + 1);
            Err(kube::Error::Api(Status::failure("gone", "NotFound").with_code(404).boxed()))
        })
        .await;
        assert!(is_not_found(&result.unwrap_err()));
        assert_eq!(calls.get(), 1);
    }
}
