//! What may be sent: windows per stream and for the session.
//!
//! Kubernetes' own SPDY clients neither grant windows nor keep to them; a sender that waited for grants would hang
//! after 64 KiB. So windows are counted always, and obeyed from the first sign that the client uses them. Pure but for
//! the wakers.

use std::collections::HashMap;
use std::task::{Context, Poll, Waker};

const INITIAL: i64 = 64 << 10;
const LARGEST: i64 = 0x7fff_ffff;

#[derive(Debug)]
pub(super) struct Windows {
    obeyed: bool,
    initial: i64,
    session: i64,
    streams: HashMap<u32, i64>,
    waiting: Vec<Waker>,
}

/// A grant that lifts a window above what can be counted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overflow;

impl Windows {
    pub(super) fn new() -> Self {
        Self { obeyed: false, initial: INITIAL, session: INITIAL, streams: HashMap::new(), waiting: Vec::new() }
    }

    pub(super) fn open(&mut self, stream: u32) {
        self.streams.insert(stream, self.initial);
    }

    pub(super) fn close(&mut self, stream: u32) {
        self.streams.remove(&stream);
        self.wake();
    }

    /// How many bytes the stream may send now, at least one; `None`: it is closed.
    pub(super) fn poll_room(&mut self, stream: u32, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        let Some(window) = self.streams.get(&stream) else { return Poll::Ready(None) };
        if !self.obeyed {
            return Poll::Ready(Some(usize::MAX));
        }
        match usize::try_from((*window).min(self.session)) {
            Ok(room @ 1..) => Poll::Ready(Some(room)),
            _ => {
                self.waiting.push(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(super) fn take(&mut self, stream: u32, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.session = self.session.saturating_sub(bytes);
        if let Some(window) = self.streams.get_mut(&stream) {
            *window = window.saturating_sub(bytes);
        }
    }

    /// A window update; stream 0 is the session.
    pub(super) fn grant(&mut self, stream: u32, bytes: u32) -> Result<(), Overflow> {
        self.obey();
        let window = match stream {
            0 => Some(&mut self.session),
            _ => self.streams.get_mut(&stream),
        };
        // A stream that is over may still be granted something.
        let Some(window) = window else { return Ok(()) };
        *window += i64::from(bytes);
        let fits = *window <= LARGEST;
        self.wake();
        if fits { Ok(()) } else { Err(Overflow) }
    }

    /// A new initial window, which moves the windows of open streams too.
    pub(super) fn set_initial(&mut self, bytes: u32) {
        self.obey();
        let bytes = i64::from(bytes).min(LARGEST);
        let change = bytes - self.initial;
        self.initial = bytes;
        self.streams.values_mut().for_each(|window| *window += change);
        self.wake();
    }

    /// What was sent before is forgotten: nobody kept the client's windows until now.
    fn obey(&mut self) {
        if !self.obeyed {
            self.obeyed = true;
            self.session = self.session.max(0);
            self.streams.values_mut().for_each(|window| *window = (*window).max(0));
        }
    }

    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(windows: &mut Windows, stream: u32) -> Poll<Option<usize>> {
        windows.poll_room(stream, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_client_without_flow_control_is_never_waited_for() {
        let mut windows = Windows::new();
        windows.open(1);
        windows.take(1, 10 << 20);
        assert_eq!(room(&mut windows, 1), Poll::Ready(Some(usize::MAX)));
        assert_eq!(room(&mut windows, 3), Poll::Ready(None));
    }

    #[test]
    fn the_smaller_window_rules_once_a_grant_was_seen() {
        let mut windows = Windows::new();
        windows.open(1);
        windows.take(1, 64 << 10);
        assert_eq!(windows.grant(1, 100), Ok(()));
        assert_eq!(room(&mut windows, 1), Poll::Pending);
        assert_eq!(windows.grant(0, 40), Ok(()));
        assert_eq!(room(&mut windows, 1), Poll::Ready(Some(40)));
        windows.set_initial(0);
        assert_eq!(room(&mut windows, 1), Poll::Pending);
        assert_eq!(windows.grant(0, 0x7fff_ffff), Err(Overflow));
    }
}
