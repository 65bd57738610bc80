//! Writes whose message has come in together with their headers, as most do: they are handed to the store at once, on
//! the task of their connection, and only the wait for the outcome is a future of its own, a small one.
//!
//! So a write costs its connection's task and the store's, and no third one, and the answers of a batch wake one task
//! for each connection. A call that needs anything else, more of its message, room in a queue or its turn, is left to
//! the task of its own that other calls have.

use prost::Message;
use tokio::time::timeout_at;

use crate::command::{Command, Reply};
use crate::error::StoreError;
use crate::proposal::Awaited;
use crate::types::{Op, Txn};

use super::grpc::Inbound;
use super::limits::SMALL;
use super::serve::{Call, late};
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
    call: Call,
    form: Form,
    outcome: Awaited,
}

/// What became of a call that was looked at here.
pub(super) enum Taken {
    Write(Write),
    /// It is answered already, with a refusal.
    Refused,
    /// It takes more than this.
    Not(Call),
}

/// The transaction that a call asks for, when all of its message is there and its answer is small.
fn read(method: &str, inbound: &mut Inbound) -> Option<Result<(Txn, Form), Status>> {
    let one = |op: Op| Txn { success: vec![op], ..Txn::default() };
    Some(match method {
        "Put" => {
            let request = inbound.whole::<wire::PutRequest>(|_| true)?;
            request.and_then(txn::put).map(|put| (one(put), Form::Put))
        }
        "DeleteRange" => {
            let request = inbound.whole(|request| !keys::may_be_large(request))?;
            request.and_then(txn::delete).map(|delete| (one(delete), Form::Delete))
        }
        "Txn" => {
            let request = inbound.whole(|request| txn::writes(request) && !txn::may_be_large(request))?;
            request.and_then(txn::split).map(|(txn, forms)| (txn, Form::Txn(forms)))
        }
        _ => return None,
    })
}

impl Endpoint {
    /// Hands a write to the store, if it is one of those.
    pub(super) fn take_at_once(&self, path: &str, mut call: Call) -> Taken {
        let method = path.strip_prefix("/etcdserverpb.KV/").filter(|method| WRITES.contains(method));
        let Some(method) = method else { return Taken::Not(call) };
        // Before the message is taken out: who has to wait for room does so elsewhere.
        let Some(slot) = self.store().slot() else { return Taken::Not(call) };
        let Some(request) = read(method, &mut call.inbound) else { return Taken::Not(call) };
        let submitted = request.and_then(|(txn, form)| {
            let outcome = self.wrote(slot.submit(Command::Txn(txn)))?;
            Ok((form, outcome))
        });
        match submitted {
            Ok((form, outcome)) => Taken::Write(Write { call, form, outcome }),
            Err(status) => {
                call.refuse(&status);
                Taken::Refused
            }
        }
    }
}

impl Write {
    /// Answers once the store has.
    pub(super) async fn answered(self, endpoint: Endpoint) {
        let Self { call, form, outcome } = self;
        let outcome = match call.deadline {
            None => outcome.await,
            Some(deadline) => match timeout_at(deadline, outcome).await {
                Ok(outcome) => outcome,
                Err(_) => return call.refuse(&late()),
            },
        };
        let outcome = endpoint.wrote(outcome.map_err(|_| StoreError::Closed).flatten().and_then(Reply::txn));
        match form {
            Form::Put => call.answer_with(outcome.and_then(|done| keys::put_answer(done, &endpoint))),
            Form::Delete => call.answer_with(outcome.and_then(|done| keys::delete_answer(done, &endpoint))),
            Form::Txn(forms) => call.answer_with(outcome.map(|done| keys::txn_answer(done, &forms, &endpoint))),
        }
    }
}

impl Call {
    /// Answers at once what is small, and from another task what has to wait for the client.
    fn answer_with<A: Message + 'static>(self, outcome: Result<A, Status>) {
        if outcome.as_ref().is_ok_and(|answer| answer.encoded_len() > SMALL) {
            tokio::spawn(self.answer(outcome));
        } else {
            self.answer_small(outcome);
        }
    }
}
