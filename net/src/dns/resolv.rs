//! Which servers outside names are asked of: the host's `resolv.conf`, read when a query needs it and it changed.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Where systemd-resolved keeps the real servers behind its stub.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// The file is looked at no more often.
const RECHECK: Duration = Duration::from_secs(1);
const PORT: u16 = 53;

#[derive(Debug)]
pub(super) struct Servers {
    path: PathBuf,
    /// This server's own address: asking it would be asking ourselves.
    own: SocketAddr,
    checked: Option<Instant>,
    stamp: Option<(SystemTime, u64)>,
    list: Vec<SocketAddr>,
}

impl Servers {
    pub(super) fn new(path: PathBuf, own: SocketAddr) -> Self {
        Self { path, own, checked: None, stamp: None, list: Vec::new() }
    }

    /// The servers now, in the order to ask, and whether they are others than before.
    pub(super) fn current(&mut self, now: Instant) -> (Vec<SocketAddr>, bool) {
        let fresh = self.checked.is_some_and(|checked| now.saturating_duration_since(checked) < RECHECK);
        if fresh {
            return (self.list.clone(), false);
        }
        self.checked = Some(now);
        let stamp = stamp(&self.path);
        if stamp.is_some() && stamp == self.stamp {
            return (self.list.clone(), false);
        }
        self.stamp = stamp;
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let list = choose(&read(&self.path), || read(Path::new(BEHIND_STUB)), self.own);
        let changed = list != self.list;
        self.list = list;
        if changed {
            tracing::info!(servers = ?self.list, file = %self.path.display(), "dns servers for outside names");
        }
        (self.list.clone(), changed)
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Real servers before stubs: a loopback address is used only when there is nothing else.
fn choose(main: &str, behind_stub: impl FnOnce() -> String, own: SocketAddr) -> Vec<SocketAddr> {
    let not_us = |server: &SocketAddr| server.ip() != own.ip() || server.port() != own.port();
    let servers: Vec<SocketAddr> = nameservers(main).into_iter().filter(not_us).collect();
    let (stubs, real): (Vec<_>, Vec<_>) = servers.into_iter().partition(|server| server.ip().is_loopback());
    if !real.is_empty() {
        return real;
    }
    let behind: Vec<_> =
        nameservers(&behind_stub()).into_iter().filter(|server| !server.ip().is_loopback() && not_us(server)).collect();
    if behind.is_empty() { stubs } else { behind }
}

/// `nameserver` lines; a scope (`fe80::1%eth0`) cannot be kept without a name lookup, such servers are left out.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()).flatten()
        })
        .filter_map(|word| word.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, PORT))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(main: &str, behind: &str) -> Vec<String> {
        let own = "10.42.0.1:53".parse().unwrap();
        choose(main, || behind.to_owned(), own).iter().map(|server| server.ip().to_string()).collect()
    }

    #[test]
    fn real_servers_win_over_loopback_stubs() {
        assert_eq!(chosen("nameserver 127.0.0.53\nnameserver 192.0.2.1 # x\n", ""), ["192.0.2.1"]);
        assert_eq!(chosen("nameserver 127.0.0.53\n", "nameserver 192.0.2.9\n"), ["192.0.2.9"]);
        assert_eq!(chosen("nameserver 127.0.0.1\n", ""), ["127.0.0.1"]);
    }

    #[test]
    fn comments_odd_lines_and_this_server_are_left_out() {
        let text =
            "# nameserver 192.0.2.1\nsearch a b\nnameserver\nnameserver ten\nnameserver 10.42.0.1\nnameserver ::2\n";
        assert_eq!(chosen(text, ""), ["::2"]);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let mut servers = Servers::new(path.clone(), "10.42.0.1:53".parse().unwrap());
        let now = Instant::now();
        assert_eq!(servers.current(now), (vec!["192.0.2.1:53".parse().unwrap()], true));
        fs::write(&path, "nameserver 192.0.2.22\n").unwrap();
        assert!(!servers.current(now).1, "not looked at again so soon");
        assert_eq!(servers.current(now + RECHECK), (vec!["192.0.2.22:53".parse().unwrap()], true));
    }
}
