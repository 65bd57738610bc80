//! The HTTPS transport against TLS servers on loopback: one that fails, in each of its ways, and another that takes over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use tokio::net::TcpListener;

use super::fake_servers::{Ca, Health, Server};
use super::{HttpsConfig, https};
use crate::servers::{KnownServers, ServerList};
use crate::testing::FakeApi;
use crate::{Api, Informer, Informers};

/// Two servers of one cluster, and a client that is connected to the first.
struct Pair {
    ca: Ca,
    api: FakeApi,
    first: Server,
    second: Server,
    servers: ServerList,
    client: kube::Client,
}

impl Pair {
    async fn start() -> Self {
        let (ca, api) = (Ca::new(), FakeApi::new());
        let (first, second) = (Server::start(&ca, &api).await, Server::start(&ca, &api).await);
        let servers = ServerList::new(vec![first.url.clone(), second.url.clone()]);
        let client = https(ca.config(servers.clone())).unwrap();
        let pair = Self { ca, api, first, second, servers, client };
        pair.put("before");
        pair.get("before").await.unwrap();
        assert_eq!((pair.first.connections(), pair.second.connections()), (1, 0));
        pair
    }

    fn put(&self, name: &str) {
        self.api.put(&object(name)).unwrap();
    }

    fn objects(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Watches all objects, and has seen one.
    async fn watched(&self) -> (Informers, Informer<ConfigMap>) {
        let informers = Informers::new(self.client.clone());
        let objects = informers.of::<ConfigMap>();
        objects.synced().await;
        self.put("watched");
        assert!(objects.until("default", "watched", |_| true).await);
        (informers, objects)
    }

    async fn get(&self, name: &str) -> kube::Result<ConfigMap> {
        self.objects().get(name).await
    }
}

fn object(name: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.into()), namespace: Some("default".into()), ..ObjectMeta::default() };
    ConfigMap { metadata, ..ConfigMap::default() }
}

async fn closed_port() -> String {
    format!("https://{}", TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap())
}

#[tokio::test]
async fn a_dead_server_is_passed_over_and_one_connection_serves_all_requests() {
    let (ca, api) = (Ca::new(), FakeApi::new());
    api.put(&object("a")).unwrap();
    let server = Server::start(&ca, &api).await;
    let servers = ServerList::new(vec![closed_port().await, server.url.clone()]);
    let objects: Api<ConfigMap> = Api::namespaced(https(ca.config(servers.clone())).unwrap(), "default");
    let (one, two, three) = tokio::join!(objects.get("a"), objects.get("a"), objects.get("a"));
    assert!(one.is_ok() && two.is_ok() && three.is_ok());
    assert_eq!(server.connections(), 1);
    assert_eq!(servers.candidates()[0], server.url);
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused() {
    let server = Server::start(&Ca::new(), &FakeApi::new()).await;
    let client = https(Ca::new().config(vec![server.url].into())).unwrap();
    let error = client.apiserver_version().await.unwrap_err();
    let mut chain = Some(&error as &dyn std::error::Error);
    let mut text = String::new();
    while let Some(error) = chain {
        text = format!("{text}: {error}");
        chain = error.source();
    }
    assert!(text.contains("invalid peer certificate"), "{text}");
}

#[tokio::test]
async fn a_machine_of_the_cluster_that_is_no_server_is_refused_by_who_goes_by_the_name() {
    // As a node's certificate is: of the same CA, and for the node's address alone.
    let ca = Ca::new();
    let node = Server::start(&ca, &FakeApi::new()).await;
    let server = Server::named(&ca, &FakeApi::new(), "kubernetes.default.svc").await;
    let read = async |at: &Server, by_name| {
        let config = HttpsConfig { by_name, ..ca.config(vec![at.url.clone()].into()) };
        Api::<ConfigMap>::namespaced(https(config).unwrap(), "default").get_opt("a").await
    };
    assert!(read(&node, false).await.is_ok() && read(&server, true).await.is_ok());
    assert!(read(&node, true).await.is_err() && read(&server, false).await.is_err());
    assert_eq!((node.asked("GET"), server.asked("GET")), (1, 1));
}

#[tokio::test]
async fn reads_go_on_at_the_next_server_when_one_dies() {
    let pair = Pair::start().await;
    pair.first.kill();
    pair.get("before").await.unwrap();
    assert_eq!(pair.second.connections(), 1);
    assert_eq!(pair.servers.candidates()[0], pair.second.url);
}

#[tokio::test]
async fn a_write_that_may_have_been_done_is_not_sent_twice_unless_it_names_its_revision() {
    let pair = Pair::start().await;
    pair.first.set(Health::DiesAnswering);
    assert!(pair.objects().create(&PostParams::default(), &object("new")).await.is_err());
    assert_eq!(pair.second.asked("POST"), 0);
    assert!(pair.get("new").await.is_ok(), "it had been done");

    let pair = Pair::start().await;
    let mut read = pair.get("before").await.unwrap();
    read.data = Some([("a".to_owned(), "b".to_owned())].into());
    pair.first.set(Health::DiesAnswering);
    // The first server had done it, so the second sees a conflict: never a second change.
    let outcome = pair.objects().replace("before", &PostParams::default(), &read).await;
    assert!(crate::retry::is_conflict(&outcome.unwrap_err()));
    assert_eq!(pair.second.asked("PUT"), 1);
}

#[tokio::test]
async fn a_frozen_server_is_left_within_ten_seconds_and_watches_go_on_without_a_list() {
    let pair = Pair::start().await;
    let (informers, objects) = pair.watched().await;
    assert_eq!(pair.first.asked("watch=true"), 1);
    pair.first.freeze();
    let frozen = Instant::now();
    pair.put("after");
    let (read, seen) = tokio::join!(pair.get("after"), objects.until("default", "after", |_| true));
    assert!(read.is_ok() && seen);
    let took = frozen.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!((pair.second.asked("watch=true"), pair.second.asked("limit=")), (1, 0));
    informers.shutdown().await;
}

#[tokio::test]
async fn watches_go_on_at_the_next_server_from_where_they_were_when_one_dies() {
    let pair = Pair::start().await;
    let (informers, objects) = pair.watched().await;
    let died = Instant::now();
    pair.first.kill();
    pair.put("after");
    assert!(objects.until("default", "after", |_| true).await);
    assert!(died.elapsed() < Duration::from_secs(5), "{:?}", died.elapsed());
    assert_eq!((pair.second.asked("watch=true"), pair.second.asked("limit=")), (1, 0));
    informers.shutdown().await;
}

#[tokio::test]
async fn everything_moves_from_a_server_without_quorum_to_one_that_is_ready() {
    let pair = Pair::start().await;
    let (informers, objects) = pair.watched().await;
    pair.first.set(Health::NoQuorum);
    pair.get("before").await.unwrap();
    pair.put("after");
    assert!(objects.until("default", "after", |_| true).await);
    assert_eq!((pair.first.asked("watch=true"), pair.second.asked("watch=true")), (1, 1));
    informers.shutdown().await;
}

#[tokio::test]
async fn nobody_moves_while_no_server_is_ready() {
    let pair = Pair::start().await;
    pair.first.set(Health::NoQuorum);
    pair.second.set(Health::NoQuorum);
    for _ in 0..20 {
        let error = pair.get("before").await.unwrap_err();
        assert!(matches!(&error, kube::Error::Api(status) if status.code == 503), "{error}");
    }
    assert!(pair.first.connections() == 1 && pair.second.connections() <= 2, "no hot loop");
    assert_eq!(pair.first.asked("GET /api/v1"), 21);
    pair.first.set(Health::Works);
    pair.get("before").await.unwrap();
    assert_eq!(pair.first.connections(), 1);
}

#[tokio::test]
async fn a_client_moves_to_its_first_choice_when_told_to_and_loses_nothing() {
    let pair = Pair::start().await;
    let both = vec![pair.first.url.clone(), pair.second.url.clone()];
    let prefers_second = |seed: &String| {
        let list =
            ServerList::spread(Vec::new(), seed, KnownServers { servers: both.clone(), ..KnownServers::default() });
        list.candidates()[0] == pair.second.url
    };
    let seed = (0..).map(|number| number.to_string()).find(prefers_second).unwrap();
    let servers = ServerList::spread(vec![pair.first.url.clone()], &seed, KnownServers::default());
    assert!(!servers.settle(), "there is no choice");
    let client = https(pair.ca.config(servers.clone())).unwrap();
    let informers = Informers::new(client);
    let objects = informers.of::<ConfigMap>();
    objects.synced().await;
    assert!(servers.learn(both));
    assert!(servers.settle());
    let reads: Api<ConfigMap> = Api::namespaced(informers.client().clone(), "default");
    while servers.candidates()[0] != pair.second.url {
        reads.get("before").await.unwrap();
    }
    assert!(!servers.settle(), "it is there");
    // The watch follows when the former connection ends.
    let mut number = 0;
    while pair.second.asked("watch=true") == 0 {
        number += 1;
        pair.put(&format!("moving-{number}"));
        assert!(objects.until("default", &format!("moving-{number}"), |_| true).await);
    }
    assert_eq!(pair.second.asked("limit="), 0);
    informers.shutdown().await;
}

#[tokio::test]
async fn a_server_that_takes_requests_and_answers_none_is_left() {
    let pair = Pair::start().await;
    pair.first.set(Health::Hangs);
    let hung = Instant::now();
    pair.get("before").await.unwrap();
    assert!(hung.elapsed() < Duration::from_secs(10), "{:?}", hung.elapsed());
    assert_eq!(pair.servers.candidates()[0], pair.second.url);
}

#[tokio::test]
async fn a_new_connection_does_not_wait_for_a_server_that_says_nothing() {
    let (ca, api) = (Ca::new(), FakeApi::new());
    api.put(&object("a")).unwrap();
    let (frozen, works) = (Server::start(&ca, &api).await, Server::start(&ca, &api).await);
    frozen.freeze();
    let servers = ServerList::new(vec![frozen.url, works.url]);
    let objects: Api<ConfigMap> = Api::namespaced(https(ca.config(servers)).unwrap(), "default");
    let started = Instant::now();
    objects.get("a").await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn attempts_are_spaced_while_no_server_can_be_reached() {
    let servers = ServerList::new(vec!["https://127.0.0.1:1".into()]);
    let client = Arc::new(https(Ca::new().config(servers)).unwrap());
    let started = tokio::time::Instant::now();
    let mut attempts = 0;
    while started.elapsed() < Duration::from_secs(60) {
        client.apiserver_version().await.unwrap_err();
        attempts += 1;
    }
    assert!((10..=30).contains(&attempts), "{attempts} attempts in a minute");
}
