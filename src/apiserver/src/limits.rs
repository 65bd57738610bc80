//! How much is done at once: requests in flight, open connections, and how long a connection may do nothing. Beyond
//! the bound for requests a client is asked to come again (429); beyond that for connections it waits to be accepted.

use std::{sync::Arc, time::Duration};

use objects::status::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    authn::{User, user::MASTERS},
    nonresource,
    path::Target,
};

/// Bounds of an API server; the defaults for requests are upstream's.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests that read and are being answered.
    pub reading: usize,
    /// Requests that write and are being answered.
    pub writing: usize,
    /// Open connections, upgraded ones among them.
    pub connections: usize,
    /// A connection without a request for so long is closed.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { reading: 400, writing: 200, connections: 10_000, idle: Duration::from_secs(90) }
    }
}

/// Room that is left. A permit gives its room back when it is dropped.
pub(crate) struct Room {
    reading: Arc<Semaphore>,
    writing: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    pub(crate) idle: Duration,
}

pub(crate) type Permit = OwnedSemaphorePermit;

/// Seconds after which a client that was turned away may come again; upstream's.
const COME_AGAIN: u32 = 1;

impl Room {
    pub(crate) fn new(limits: &Limits) -> Room {
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Room {
            reading: semaphore(limits.reading),
            writing: semaphore(limits.writing),
            connections: semaphore(limits.connections),
            idle: limits.idle,
        }
    }

    /// Room for a request of `verb`; `None` for those that no bound counts.
    pub(crate) fn for_request(
        &self,
        user: &User,
        target: &Target<'_>,
        verb: &str,
        path: &str,
    ) -> Result<Option<Permit>, Status> {
        if is_exempt(user, target, verb, path) {
            return Ok(None);
        }
        let room = if matches!(verb, "get" | "list" | "head") { &self.reading } else { &self.writing };
        let permit = room.clone().try_acquire_owned();
        permit
            .map(Some)
            .map_err(|_| Status::too_many_requests("Too many requests, please try again later.", COME_AGAIN))
    }

    /// Waits for room for a connection.
    pub(crate) async fn for_connection(&self) -> Option<Permit> {
        if let Ok(permit) = self.connections.clone().try_acquire_owned() {
            return Some(permit);
        }
        tracing::warn!("too many open connections; new ones wait");
        self.connections.clone().acquire_owned().await.ok()
    }
}

/// What lasts as long as its client wants is not counted, nor are administrators, nor questions after health: these
/// must get through to a server that is busy.
fn is_exempt(user: &User, target: &Target<'_>, verb: &str, path: &str) -> bool {
    let uncounted = match target {
        Target::Resource(at) => {
            verb == "watch" || matches!(at.subresource, "attach" | "exec" | "proxy" | "log" | "portforward")
        }
        Target::NonResource => nonresource::is_health(path),
    };
    uncounted || user.in_group(MASTERS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path;

    fn room_for(room: &Room, user: &User, verb: &str, path: &str) -> Result<Option<Permit>, Status> {
        room.for_request(user, &path::parse(path), verb, path)
    }

    #[tokio::test]
    async fn who_finds_no_room_is_asked_to_come_again_and_finds_some_when_another_is_done() {
        let room = Room::new(&Limits { reading: 2, writing: 1, ..Limits::default() });
        let user = User::new("u", ["g"]);
        let (list, pods) = ("list", "/api/v1/pods");
        let first = room_for(&room, &user, list, pods).unwrap();
        let _second = room_for(&room, &user, "get", "/version").unwrap();
        let refused = room_for(&room, &user, list, pods).unwrap_err();
        assert_eq!((refused.code(), refused.retry_after()), (429, Some(1)));
        // Writers have room of their own.
        let writer = room_for(&room, &user, "create", "/api/v1/namespaces/d/pods").unwrap();
        assert!(writer.is_some());
        assert_eq!(room_for(&room, &user, "delete", "/api/v1/namespaces/d/pods/p").unwrap_err().code(), 429);
        drop(first);
        assert!(room_for(&room, &user, list, pods).unwrap().is_some());
    }

    #[tokio::test]
    async fn what_lasts_and_who_must_get_through_is_not_counted() {
        let room = Room::new(&Limits { reading: 0, writing: 0, ..Limits::default() });
        let user = User::new("u", ["g"]);
        for (verb, path) in [
            ("watch", "/api/v1/pods"),
            ("get", "/api/v1/namespaces/d/pods/p/log"),
            ("create", "/api/v1/namespaces/d/pods/p/exec"),
            ("get", "/api/v1/namespaces/d/services/s/proxy/a/b"),
            ("get", "/readyz"),
        ] {
            assert!(room_for(&room, &user, verb, path).unwrap().is_none(), "{verb} {path}");
        }
        let admin = User::new("a", [MASTERS]);
        assert!(room_for(&room, &admin, "create", "/api/v1/namespaces").unwrap().is_none());
        assert!(room_for(&room, &user, "get", "/api/v1/namespaces/d/pods/p/status").is_err());
        assert!(room_for(&room, &user, "get", "/readyzz").is_err());
    }
}
