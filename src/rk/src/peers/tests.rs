//! The transport against peers that answer, turn away, cut, or are somebody else.

use super::*;
use crate::join::identity::certified_key;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use jiff::Timestamp;
use pki::{Ca, Leaf};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::CertificateDer;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const LIMIT: Duration = Duration::from_secs(20);

fn ca() -> Ca {
    Ca::from_pem(&Ca::generate("rk-test", Timestamp::now()).unwrap()).unwrap()
}

fn peers(ca: &Ca) -> Peers {
    let peers = Peers::default();
    peers.start(Credentials::issue(ca, "me").unwrap()).unwrap();
    peers
}

/// What a peer does with requests.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Sends the bytes back.
    Echo,
    TurnAway,
    /// Reads a request and cuts the connection.
    Cut,
}

/// A peer that calls itself `name`; its address, and how many connections it has had.
async fn peer(ca: &Ca, name: &str, manner: Manner) -> (String, Arc<AtomicU32>) {
    let leaf = Leaf::Peer {
        identity: Identity::server(name),
        dns_names: Vec::new(),
        addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
    };
    let serving: SingleCertAndKey = certified_key(&ca.issue(&leaf, Timestamp::now()).unwrap()).unwrap().into();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.cert_der().to_vec())).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(serving));
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicU32::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let (cut, mut when) = tokio::sync::mpsc::channel(1);
                let service = service_fn(move |request: hyper::Request<Incoming>| {
                    let cut = cut.clone();
                    async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        if manner == Manner::Cut {
                            cut.send(()).await.unwrap();
                            std::future::pending::<()>().await;
                        }
                        let mut response = Response::new(Full::new(body));
                        if manner == Manner::TurnAway {
                            *response.status_mut() = StatusCode::FORBIDDEN;
                        }
                        Ok::<_, std::convert::Infallible>(response)
                    }
                });
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    ended = serving => drop(ended),
                    _ = when.recv() => {}
                }
            });
        }
    });
    (address, connections)
}

fn member(name: &str, address: &str) -> Member {
    Member { name: name.into(), addresses: vec![address.into()] }
}

async fn call(peers: &Peers, to: &Member, request: Bytes) -> Result<Bytes, TransportError> {
    tokio::time::timeout(LIMIT, peers.call(7, to, request, LIMIT)).await.expect("an answer in time")
}

#[tokio::test]
async fn requests_go_by_one_kept_connection_and_large_ones_by_another() {
    let ca = ca();
    let (address, connections) = peer(&ca, "b", Manner::Echo).await;
    let (peers, to) = (peers(&ca), member("b", &address));
    for n in 0..20_u8 {
        let request = Bytes::from(vec![n; 100]);
        assert_eq!(call(&peers, &to, request.clone()).await.unwrap(), request);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    let large = Bytes::from(vec![7; 2 << 20]);
    let (first, second, small) = tokio::join!(
        call(&peers, &to, large.clone()),
        call(&peers, &to, large.clone()),
        call(&peers, &to, Bytes::from_static(b"x"))
    );
    assert!(first.unwrap() == large && second.unwrap() == large && small.unwrap() == "x");
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn who_is_not_the_wanted_member_is_sent_nothing() {
    let ca_one = ca();
    let (address, _) = peer(&ca_one, "b", Manner::Echo).await;
    let wrong_name = call(&peers(&ca_one), &member("c", &address), Bytes::from_static(b"x")).await;
    assert_eq!(wrong_name, Err(TransportError::Unreachable));
    let other_cluster = call(&peers(&ca()), &member("b", &address), Bytes::from_static(b"x")).await;
    assert_eq!(other_cluster, Err(TransportError::Unreachable));
    let not_started = call(&Peers::default(), &member("b", &address), Bytes::from_static(b"x")).await;
    assert_eq!(not_started, Err(TransportError::Unreachable));
}

#[tokio::test]
async fn a_member_that_has_moved_is_found_where_it_says_until_the_membership_knows() {
    let ca = ca();
    let peers = peers(&ca);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let (address, connections) = peer(&ca, "b", Manner::Echo).await;
    let was = member("b", &closed);
    let request = Bytes::from_static(b"x");
    assert_eq!(call(&peers, &was, request.clone()).await, Err(TransportError::Unreachable));
    // At once: the pause after the failure was that of another way.
    peers.moved(7, &was, std::slice::from_ref(&address));
    assert_eq!(call(&peers, &was, request.clone()).await, Ok(request.clone()));
    // Whoever says so wrongly does no harm: the member is still called where it was.
    let now = member("b", &address);
    peers.moved(7, &now, &[closed]);
    assert_eq!(call(&peers, &now, request.clone()).await, Ok(request.clone()));
    assert_eq!(connections.load(Ordering::Relaxed), 2);
    let known = member("b", "10.0.0.9:6443");
    assert_eq!(peers.addresses(7, &known), ["10.0.0.9:6443"], "what the membership says later goes before");
    assert_eq!(peers.addresses(7, &now), [address]);
}

#[tokio::test]
async fn whether_a_request_may_have_been_carried_out_is_told_truly() {
    let ca = ca();
    let peers = peers(&ca);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let nobody = call(&peers, &member("b", &closed), Bytes::from_static(b"x")).await;
    assert_eq!(nobody, Err(TransportError::Unreachable));
    let (address, _) = peer(&ca, "b", Manner::TurnAway).await;
    let turned_away = call(&peers, &member("b", &address), Bytes::from_static(b"x")).await;
    assert_eq!(turned_away, Err(TransportError::Unreachable));
    let (address, connections) = peer(&ca, "b", Manner::Cut).await;
    let cut = call(&peers, &member("b", &address), Bytes::from_static(b"x")).await;
    assert_eq!(cut, Err(TransportError::Lost));
    assert_eq!(connections.load(Ordering::Relaxed), 1, "it is not sent a second time");
}
