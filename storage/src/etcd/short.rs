//! Writes whose message has come in together with their headers, as most do: they are handed to the store at once, and
//! answered, on the task of their connection.
//!
//! So a write costs its connection's task and the store's, and no third one, and the answers of a batch wake one task
//! for each connection. A call that needs anything else, more of its message, room in a queue or its turn, is left to
//! the task of its own that other calls have.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use prost::Message;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::command::{Command, Reply};
use crate::error::StoreError;
use crate::proposal::Awaited;
use crate::types::{Op, Txn};

use super::grpc::{self, whole};
use super::http2::streams::{Shared, Streams};
use super::limits::{Limits, SMALL};
use super::serve::late;
use super::status::Status;
use super::txn::Forms;
use super::{Endpoint, keys, txn, wire};

/// The calls that are looked at here; others, reads above all, cost nothing more than that.
const WRITES: [&str; 3] = ["Put", "DeleteRange", "Txn"];

/// How the store's answer is to be written.
enum Form {
    Put,
    Delete,
    Txn(Forms),
}

/// A write that the store has.
pub(super) struct Write {
    id: u32,
    form: Form,
    outcome: Awaited,
    deadline: Option<Instant>,
}

/// What became of a call that was looked at here.
pub(super) enum Taken {
    Write(Write),
    Refused(Status),
    /// It takes more than this.
    Not,
}

/// The transaction that a call asks for, when all of its message is there and its answer is small.
fn read(method: &str, framed: &[u8]) -> Option<Result<(Txn, Form), Status>> {
    let one = |op: Op| Txn { success: vec![op], ..Txn::default() };
    Some(match method {
        "Put" => {
            let request = whole::<wire::PutRequest>(framed, |_| true)?;
            request.and_then(txn::put).map(|put| (one(put), Form::Put))
        }
        "DeleteRange" => {
            let request = whole(framed, |request| !keys::may_be_large(request))?;
            request.and_then(txn::delete).map(|delete| (one(delete), Form::Delete))
        }
        "Txn" => {
            let request = whole(framed, |request| txn::writes(request) && !txn::may_be_large(request))?;
            request.and_then(txn::split).map(|(txn, forms)| (txn, Form::Txn(forms)))
        }
        _ => return None,
    })
}

impl Endpoint {
    /// Hands a write to the store, if it is one of those. `framed` is all that the client has to say.
    pub(super) fn take_at_once(&self, id: u32, path: &str, deadline: Option<Instant>, framed: &[u8]) -> Taken {
        let method = path.strip_prefix("/etcdserverpb.KV/").filter(|method| WRITES.contains(method));
        let Some(method) = method else { return Taken::Not };
        // Who has to wait for room does so elsewhere.
        let Some(slot) = self.store().slot() else { return Taken::Not };
        let Some(request) = read(method, framed) else { return Taken::Not };
        let submitted = request.and_then(|(txn, form)| {
            let outcome = self.wrote(slot.submit(Command::Txn(txn)))?;
            Ok(Write { id, form, outcome, deadline })
        });
        submitted.map_or_else(Taken::Refused, Taken::Write)
    }
}

/// Writes of one connection that the store has.
#[derive(Default)]
pub(super) struct Writes {
    all: Vec<Write>,
    /// Wakes the connection's task when the time of one is over, if it is set.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Writes {
    pub(super) fn push(&mut self, write: Write) {
        self.all.push(write);
    }

    /// Answers those whose outcome is there, or whose time is over. Whether there were such.
    pub(super) fn answer(
        &mut self,
        endpoint: &Endpoint,
        limits: &Arc<Limits>,
        to: &Shared,
        cx: &mut Context<'_>,
    ) -> bool {
        if self.all.is_empty() {
            self.alarm = None;
            return false;
        }
        let before = self.all.len();
        let mut streams = to.lock();
        let mut earliest: Option<Instant> = None;
        self.all.retain_mut(|write| {
            let Poll::Ready(outcome) = Pin::new(&mut write.outcome).poll(cx) else {
                earliest = earliest.into_iter().chain(write.deadline).min();
                return true;
            };
            let outcome = endpoint.wrote(outcome.map_err(|_| StoreError::Closed).flatten().and_then(Reply::txn));
            let mut reply = Answer { streams: &mut streams, to, limits, id: write.id };
            match &write.form {
                Form::Put => reply.give(outcome.and_then(|done| keys::put_answer(done, endpoint))),
                Form::Delete => reply.give(outcome.and_then(|done| keys::delete_answer(done, endpoint))),
                Form::Txn(forms) => reply.give(outcome.map(|done| keys::txn_answer(done, forms, endpoint))),
            }
            false
        });
        if earliest.is_some_and(|earliest| self.is_over(earliest, cx)) {
            let now = Instant::now();
            self.all.retain(|write| {
                let over = write.deadline.is_some_and(|deadline| deadline <= now);
                if over {
                    streams.refuse(write.id, &late());
                }
                !over
            });
        }
        self.all.len() != before
    }

    /// Whether it is that late. If not, the task is woken then.
    fn is_over(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        // A timer that rings too early costs less than one that is set for each write.
        if alarm.deadline() > deadline {
            alarm.as_mut().reset(deadline);
        }
        while alarm.as_mut().poll(cx).is_ready() {
            if deadline <= Instant::now() {
                self.alarm = None;
                return true;
            }
            alarm.as_mut().reset(deadline);
        }
        false
    }
}

/// Where the answer to a write goes.
struct Answer<'a> {
    streams: &'a mut Streams,
    to: &'a Shared,
    limits: &'a Arc<Limits>,
    id: u32,
}

impl Answer<'_> {
    /// Answers at once what is small, and from another task what has to wait for the client.
    fn give<A: Message + 'static>(&mut self, outcome: Result<A, Status>) {
        match outcome {
            Ok(answer) if answer.encoded_len() > SMALL => {
                let ((_, respond), limits) = (self.to.call(self.id), self.limits.clone());
                tokio::spawn(async move { grpc::answer(respond, Ok(answer), &limits).await });
            }
            Ok(answer) => self.streams.answer(self.id, &answer),
            Err(status) => self.streams.refuse(self.id, &status),
        }
    }
}
