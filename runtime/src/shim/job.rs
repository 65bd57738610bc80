//! Work in a forked child that answers with one message: the pid of the process it made, or why it could not.

use crate::protocol::{Failure, FailureKind};
use crate::sys::fd::{receive_message, send_message};
use crate::sys::process::{self, Fork};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

#[derive(Debug)]
pub(super) struct Job {
    channel: OwnedFd,
}

/// What a job has made.
#[derive(Debug)]
pub(super) struct Made {
    pub pid: i32,
    /// Master of the process's terminal, if it has one.
    pub master: Option<OwnedFd>,
}

#[derive(Serialize, Deserialize)]
struct Message {
    result: Result<i32, Failure>,
}

impl Job {
    /// Forks. The child keeps standard streams and the descriptors in `keep`, runs `work`, reports and ends.
    pub(super) fn spawn(keep: &[i32], work: impl FnOnce() -> Result<Made, Failure>) -> io::Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        match process::fork()? {
            Fork::Parent(_) => Ok(Self { channel: ours }),
            Fork::Child => run_child(keep, &theirs, work),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Takes the answer, once the channel is readable.
    pub(super) fn answer(&self) -> Result<Made, Failure> {
        let failure = |text: String| Failure::new(FailureKind::Refused, text);
        let mut buffer = vec![0; 64 << 10];
        let (length, master) =
            receive_message(&self.channel, &mut buffer).map_err(|e| failure(format!("reading the answer: {e}")))?;
        if length == 0 {
            return Err(failure("the child that was to make the process died".into()));
        }
        let message: Message =
            serde_json::from_slice(&buffer[..length]).map_err(|e| failure(format!("unreadable answer: {e}")))?;
        message.result.map(|pid| Made { pid, master })
    }
}

fn run_child(keep: &[i32], outlet: &OwnedFd, work: impl FnOnce() -> Result<Made, Failure>) -> ! {
    let mut keep = keep.to_vec();
    keep.push(outlet.as_raw_fd());
    process::reset_signals();
    if process::close_all_but(&keep).is_err() {
        process::exit_now(1);
    }
    let code = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => answer(outlet, result),
        Err(_) => answer(outlet, Err(Failure::new(FailureKind::Refused, "making the process panicked"))),
    };
    process::exit_now(code)
}

fn answer(outlet: &OwnedFd, result: Result<Made, Failure>) -> i32 {
    let (result, master) = match result {
        Ok(made) => (Ok(made.pid), made.master),
        Err(failure) => (Err(failure), None),
    };
    let payload = serde_json::to_vec(&Message { result }).unwrap_or_default();
    i32::from(send_message(outlet, &payload, master.as_ref()).is_err())
}
