//! Several members in one process, joined by a transport that cuts, delays, loses and repeats on demand.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod damage;
mod elections;
mod faults;
mod keeping;
mod leaderless;
mod membership;
mod net;
mod several;
mod snapshots;
