//! Servers under test: processes with a folder each, gone when dropped.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use storage::etcd::client::Client;
use storage::etcd::wire;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::Outcome;

const START: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
    _dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; there is nothing to save.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The store with its endpoint: the example `etcd`, beside this executable.
pub(crate) async fn rk(dir: &Path) -> Outcome<Server> {
    let folder = tempfile::tempdir_in(dir)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let program = std::env::current_exe()?.with_file_name("etcd");
    let mut command = Command::new(program);
    command.arg(address.to_string()).arg(folder.path().join("db"));
    start(command, address, folder).await
}

/// Debian's etcd, as it comes. Nothing when it is not installed.
pub(crate) async fn etcd(dir: &Path) -> Outcome<Option<Server>> {
    let found = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|file| file.is_file()));
    let Some(program) = found else { return Ok(None) };
    let folder = tempfile::tempdir_in(dir)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let (client, peer) = (format!("http://{address}"), format!("http://127.0.0.1:{}", free_port()?));
    let mut command = Command::new(program);
    command.arg("--data-dir").arg(folder.path().join("db")).stdout(Stdio::null()).stderr(Stdio::null());
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    start(command, address, folder).await.map(Some)
}

async fn start(mut command: Command, address: SocketAddr, dir: TempDir) -> Outcome<Server> {
    let server = Server { address, child: command.spawn()?, _dir: dir };
    let deadline = Instant::now() + START;
    loop {
        if let Ok(client) = connect(address).await
            && let Ok(status) = client.call::<wire::StatusResponse>("Maintenance/Status", &wire::Empty {}).await
            && status.leader != 0
        {
            return Ok(server);
        }
        if Instant::now() > deadline {
            return Err(format!("{command:?} does not serve").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn connect(address: SocketAddr) -> Outcome<Client> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Client::connect(stream).await?)
}
