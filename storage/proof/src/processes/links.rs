//! The links between member processes: one proxy for each direction of each pair, which the driver cuts and slows down.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use storage::MemberId;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::wire;
use crate::seeded::Seeded;

#[derive(Debug)]
struct State {
    random: Seeded,
    /// What one member says does not reach the other.
    cuts: BTreeSet<(MemberId, MemberId)>,
    /// Longest delay each way, in milliseconds.
    delay: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Links {
    run: PathBuf,
    state: Arc<Mutex<State>>,
}

/// A proxy, for as long as this lives.
pub(super) struct Link(JoinHandle<()>);

impl Drop for Link {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Links {
    pub(super) fn new(run: &Path, random: Seeded) -> Self {
        let state = State { random, cuts: BTreeSet::new(), delay: 0 };
        Self { run: run.to_owned(), state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cut(&self, from: MemberId, to: MemberId) {
        self.state().cuts.insert((from, to));
    }

    pub(super) fn slow_down(&self, delay: u64) {
        self.state().delay = delay;
    }

    pub(super) fn heal(&self) {
        let mut state = self.state();
        state.cuts.clear();
        state.delay = 0;
    }

    /// Lets one member reach another.
    pub(super) fn lay(&self, from: MemberId, to: MemberId) -> io::Result<Link> {
        let listener = UnixListener::bind(wire::link(&self.run, from, to))?;
        let this = self.clone();
        let proxy = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = this.clone();
                // A connection that breaks is one more trouble for the members.
                tokio::spawn(async move { drop(this.carry(stream, from, to).await) });
            }
        };
        Ok(Link(tokio::spawn(proxy)))
    }

    /// Nothing comes through: until the one that waits gives up.
    async fn silence(stream: &mut UnixStream) -> io::Result<()> {
        stream.read(&mut [0; 1]).await.map(drop)
    }

    async fn travel(&self, from: MemberId, to: MemberId) -> bool {
        let delay = {
            let mut state = self.state();
            let most = state.delay;
            Duration::from_millis(state.random.below(most + 1))
        };
        if !delay.is_zero() {
            sleep(delay).await;
        }
        !self.state().cuts.contains(&(from, to))
    }

    async fn carry(&self, mut stream: UnixStream, from: MemberId, to: MemberId) -> io::Result<()> {
        let (sender, request) = wire::asked(&mut stream).await?;
        if !self.travel(from, to).await {
            return Self::silence(&mut stream).await;
        }
        let Ok(mut far) = UnixStream::connect(wire::door(&self.run, to)).await else {
            return wire::answer(&mut stream, None).await;
        };
        wire::ask(&mut far, sender, &request).await?;
        let answer = wire::answered(&mut far).await?;
        if !self.travel(to, from).await {
            return Self::silence(&mut stream).await;
        }
        wire::answer(&mut stream, answer.as_deref()).await
    }
}
