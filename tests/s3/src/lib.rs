//! A bucket on a host of the suite: a server that speaks S3, checks signatures, and keeps objects in a folder.
#![forbid(unsafe_code)]

use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

/// The keys that open it.
pub const ACCESS_KEY: &str = "an-access-key";
pub const SECRET_KEY: &str = "a-secret-key-that-no-log-may-show";
/// The one bucket there is.
pub const BUCKET: &str = "backups";

/// A running server. It ends with the value.
#[derive(Debug)]
pub struct Bucket {
    folder: tempfile::TempDir,
    pub address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Bucket {
    /// Serves on a listener that may be in another network namespace.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn serve(listener: TcpListener) -> Self {
        let folder = tempfile::tempdir().expect("make a temporary folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("make the bucket");
        let objects = s3s_fs::FileSystem::new(folder.path()).expect("open the bucket");
        let mut service = S3ServiceBuilder::new(objects);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let address = listener.local_addr().expect("a listener has an address");
        listener.set_nonblocking(true).expect("set the listener non-blocking");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("start the async runtime");
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("hand over the listener");
            while let Ok((connection, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let http = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                    if let Err(error) = http.serve_connection(TokioIo::new(connection), service).await {
                        eprintln!("a connection to the bucket ended: {error}");
                    }
                });
            }
        });
        Self { folder, address, _runtime: runtime }
    }

    /// Where an object lies.
    pub fn object(&self, key: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join(key)
    }
}
