//! Hosts that are network namespaces, joined by a switch that is a bridge in a namespace of its own: nothing of a
//! test is seen by the machine's own network, and all of it goes with the namespaces.

use crate::process::check;
use std::fs::File;
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network of hosts, 10.99.0.0/24. Dropping it removes every namespace.
#[derive(Debug)]
pub struct Network {
    switch: String,
    hosts: u8,
}

/// One machine of the network. A copy is the same machine.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    pub address: String,
}

fn ip(arguments: &str) {
    let result = check(Command::new("ip").args(arguments.split_whitespace()), None);
    result.unwrap_or_else(|error| panic!("ip {arguments}: {error:#}"));
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Network {
    pub fn new() -> Self {
        let switch = format!("rkt{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {switch}"));
        ip(&format!("-n {switch} link add sw type bridge"));
        ip(&format!("-n {switch} link set sw up"));
        Self { switch, hosts: 0 }
    }

    /// A new host with an address, and a default route to the (silent) switch.
    pub fn host(&mut self) -> Host {
        self.hosts += 1;
        let (switch, number) = (&self.switch, self.hosts);
        let namespace = format!("{switch}h{number}");
        let address = format!("10.99.0.{}", 10 + number);
        ip(&format!("netns add {namespace}"));
        ip(&format!("-n {switch} link add p{number} type veth peer name eth0 netns {namespace}"));
        ip(&format!("-n {switch} link set p{number} master sw up"));
        ip(&format!("-n {namespace} link set lo up"));
        ip(&format!("-n {namespace} link set eth0 up"));
        ip(&format!("-n {namespace} addr add {address}/24 dev eth0"));
        ip(&format!("-n {namespace} route add default via 10.99.0.1"));
        Host { namespace, address }
    }

    /// Gives a host another address, in the place of the one it has; its route goes with that, and comes back.
    pub fn move_host(&self, host: &mut Host, address: &str) {
        let namespace = &host.namespace;
        ip(&format!("-n {namespace} addr del {}/24 dev eth0", host.address));
        ip(&format!("-n {namespace} addr add {address}/24 dev eth0"));
        ip(&format!("-n {namespace} route replace default via 10.99.0.1"));
        address.clone_into(&mut host.address);
    }

    /// Cuts or mends the cable of a host.
    pub fn set_link(&self, host: &Host, up: bool) {
        let number = host.namespace.rsplit_once('h').map_or("", |(_, number)| number);
        ip(&format!("-n {} link set p{number} {}", self.switch, if up { "up" } else { "down" }));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let delete = |namespace: &str| {
            if let Err(error) = check(Command::new("ip").args(["netns", "delete", namespace]), None) {
                eprintln!("{error:#}");
            }
        };
        (1..=self.hosts).for_each(|number| delete(&format!("{}h{number}", self.switch)));
        delete(&self.switch);
    }
}

impl Host {
    /// The host's network namespace.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub fn network_namespace(&self) -> File {
        File::open(format!("/run/netns/{}", self.namespace)).expect("open the namespace")
    }

    /// A listener on this host's loopback, which this process serves.
    ///
    /// # Panics
    /// When the namespace cannot be entered.
    pub fn listen(&self) -> TcpListener {
        let place = self.network_namespace();
        // A thread of its own: the socket stays in the namespace, the test does not.
        let bind = move || {
            nix::sched::setns(place, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            TcpListener::bind("127.0.0.1:0").expect("listen on loopback")
        };
        std::thread::spawn(bind).join().expect("the thread listens")
    }

    /// A command that runs on this host. Not `ip netns exec`: that remounts /sys and so hides the cgroups.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg("--").arg(program);
        command
    }
}
