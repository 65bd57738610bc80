//! A store with the etcd endpoint on a plain TCP port, for measurements and for trying clients by hand:
//! `cargo run -p storage --example etcd -- 127.0.0.1:2379 DIR`. No TLS: whoever reaches the port may do anything.
#![forbid(unsafe_code)]

use std::error::Error;

use storage::etcd::{Config, Endpoint};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(address), Some(dir)) = (args.next(), args.next()) else {
        return Err("usage: etcd ADDRESS:PORT DIR".into());
    };
    let store = storage::Store::open(storage::Config::new(dir, 1)).await?;
    let url = format!("http://{address}");
    let config = Config { name: "example".to_owned(), client_urls: vec![url], ..Config::default() };
    let endpoint = Endpoint::new(store.clone(), config).await?;
    let listener = TcpListener::bind(&address).await?;
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
