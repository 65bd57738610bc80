//! A store with the etcd endpoint on a plain TCP port, for measurements and for trying clients by hand:
//! `cargo run -p storage --example etcd -- 127.0.0.1:2379 DIR`. No TLS: whoever reaches the port may do anything.
//!
//! A cluster takes a name and a port for the other members, and for all but the first the port of one that is there:
//! `etcd 127.0.0.1:2379 A a 127.0.0.1:2380`, then `etcd 127.0.0.1:2479 B b 127.0.0.1:2480 127.0.0.1:2380`.
#![forbid(unsafe_code)]

mod peers;

use std::error::Error;
use std::sync::Arc;

use peers::Peers;
use storage::etcd::{Config, Endpoint};
use storage::{Member, Store};
use tokio::net::TcpListener;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Opens a member of a cluster, and has it join unless it has before.
async fn member(dir: &str, name: &str, address: &str, there: Option<&str>) -> Outcome<Store> {
    let listener = TcpListener::bind(address).await?;
    let member = Member { name: name.to_owned(), addresses: vec![address.to_owned()] };
    let join = match there {
        Some(there) if !std::path::Path::new(dir).exists() => Some(peers::cluster_of(there).await?),
        _ => None,
    };
    let transport = Some(Arc::new(Peers::default()) as Arc<dyn storage::Transport>);
    let config = storage::Config { member: member.clone(), join, transport, ..storage::Config::new(dir, 0) };
    let store = Store::open(config).await?;
    tokio::spawn(peers::serve(listener, store.clone()));
    if let (Some(_), Some(there)) = (join, there) {
        peers::join(there, store.node_id(), &member).await?;
    }
    Ok(store)
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (address, name, store) = match args[..] {
        [address, dir] => (address, "example", Store::open(storage::Config::new(dir, 1)).await?),
        [address, dir, name, peers] => (address, name, member(dir, name, peers, None).await?),
        [address, dir, name, peers, there] => (address, name, member(dir, name, peers, Some(there)).await?),
        _ => return Err("usage: etcd ADDRESS:PORT DIR [NAME PEER-ADDRESS:PORT [ADDRESS:PORT-OF-A-MEMBER]]".into()),
    };
    // Without a scheme: etcdctl 3.4 cannot speak to `http://` here, see ADR 0010.
    let client_urls = vec![address.to_owned()];
    let endpoint =
        Endpoint::new(store.clone(), Config { name: name.to_owned(), client_urls, ..Config::default() }).await?;
    let listener = TcpListener::bind(address).await?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (connection, _) = accepted?;
                connection.set_nodelay(true)?;
                let endpoint = endpoint.clone();
                tokio::spawn(async move { endpoint.serve(connection).await });
            }
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                store.shutdown().await;
                return Ok(());
            }
        }
    }
}
