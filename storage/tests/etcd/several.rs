//! The endpoints of three members: what each says of the others, and what they do when the members do not hear each other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use storage::etcd::client::{CallError, Client};
use storage::etcd::{Config, Endpoint, wire};
use storage::{MemberId, Role};

use crate::net::{Members, PATIENCE, member};
use crate::{Watching, all, ask, connect, everything, put_request, refused};

struct Cluster {
    members: Members,
    clients: BTreeMap<MemberId, Client>,
}

fn url(id: MemberId) -> String {
    format!("https://10.0.0.{id}:2379")
}

impl Cluster {
    async fn of(count: u64) -> Self {
        let members = Members::of(count).await;
        let mut this = Self { members, clients: BTreeMap::new() };
        for id in 1..=count {
            this.serve(id).await;
        }
        this
    }

    async fn serve(&mut self, id: MemberId) {
        let config = Config { client_urls: vec![url(id)], peer_scheme: "https://", ..Config::default() };
        let endpoint = Endpoint::new(self.members.store(id), config).await.unwrap();
        self.clients.insert(id, connect(&endpoint).await);
    }

    async fn leader_and_followers(&self) -> (MemberId, Vec<MemberId>) {
        let leader = self.members.leader().await;
        (leader, self.clients.keys().copied().filter(|id| *id != leader).collect())
    }

    async fn list(&self, by: MemberId) -> Vec<wire::Member> {
        let request = wire::MemberListRequest { linearizable: false };
        self.clients[&by].call::<wire::MembersResponse>("Cluster/MemberList", &request).await.unwrap().members
    }

    async fn status(&self, by: MemberId) -> wire::StatusResponse {
        self.clients[&by].call("Maintenance/Status", &wire::Empty {}).await.unwrap()
    }

    async fn put(&self, by: MemberId, key: &str) -> Result<wire::PutResponse, CallError> {
        self.clients[&by].call("KV/Put", &put_request(key, "v")).await
    }
}

/// Asks until the answer is as it must become.
async fn until<T: std::fmt::Debug>(what: &str, mut ask: impl AsyncFnMut() -> T, good: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask().await;
        if good(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "never seen: {what}; {answer:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn every_member_lists_all_with_their_urls_and_remembers_those_of_one_that_is_gone() {
    let mut cluster = Cluster::of(3).await;
    // One of them has left revision 0 for all.
    assert_eq!(cluster.members.store(3).read_barrier().await.unwrap(), 1);
    for by in 1..=3 {
        let listed = cluster.list(by).await;
        assert_eq!(listed.len(), 3);
        for found in listed {
            let id = found.id;
            assert_eq!((found.name, found.is_learner), (member(id).name, false));
            assert_eq!(found.peer_urls, [format!("https://{}", member(id).addresses[0])]);
            assert_eq!(found.client_urls, [url(id)], "of {id} by {by}");
        }
    }
    cluster.members.kill(3);
    let asked = Instant::now();
    assert_eq!(cluster.list(1).await[2].client_urls, [url(3)]);
    assert!(asked.elapsed() < Duration::from_secs(30));
    // A learner is one, and moves up as etcd's tools have it.
    cluster.members.start(4).await;
    cluster.members.store(1).add_member(4, member(4)).await.unwrap();
    cluster.serve(4).await;
    let learns = |listed: &Vec<wire::Member>| listed.iter().any(|one| one.id == 4 && one.is_learner);
    until("a learner", async || cluster.list(1).await, learns).await;
    assert!(until("its own view", async || cluster.status(4).await, |status| status.is_learner).await.leader != 0);
    let id = wire::MemberIdRequest { id: 4 };
    let _: wire::MembersResponse = cluster.clients[&1].call("Cluster/MemberPromote", &id).await.unwrap();
    let again = cluster.clients[&1].call::<wire::MembersResponse>("Cluster/MemberPromote", &id).await;
    assert_eq!(refused(again), (9, "etcdserver: can only promote a learner member".to_owned()));
    let removed: wire::MembersResponse =
        cluster.clients[&1].call("Cluster/MemberRemove", &wire::MemberIdRequest { id: 3 }).await.unwrap();
    assert!(removed.members.iter().all(|member| member.id != 3));
    let unknown = cluster.clients[&1].call::<wire::MembersResponse>("Cluster/MemberRemove", &id_of(99)).await;
    assert_eq!(refused(unknown), (5, "etcdserver: member not found".to_owned()));
}

fn id_of(id: MemberId) -> wire::MemberIdRequest {
    wire::MemberIdRequest { id }
}

#[tokio::test]
async fn addresses_of_a_member_are_corrected_and_bad_ones_refused() {
    let cluster = Cluster::of(3).await;
    let update = |id, url: &str| wire::MemberUpdateRequest { id, peer_urls: vec![url.to_owned()] };
    let client = &cluster.clients[&1];
    let call = async |request: wire::MemberUpdateRequest| {
        client.call::<wire::MembersResponse>("Cluster/MemberUpdate", &request).await
    };
    let bad = refused(call(update(2, "10.9.9.9")).await);
    assert_eq!(bad, (3, "etcdserver: given member URLs are invalid".to_owned()));
    let none = wire::MemberUpdateRequest { id: 2, peer_urls: Vec::new() };
    assert_eq!(refused(call(none).await).0, 3);
    let taken = refused(call(update(2, "https://10.0.0.3:6443")).await);
    assert_eq!(taken, (9, "etcdserver: Peer URLs already exists".to_owned()));
    assert_eq!(refused(call(update(99, "https://a:1")).await).1, "etcdserver: member not found");
    call(update(2, "https://10.9.9.9:6443")).await.unwrap();
    let moved = |listed: &Vec<wire::Member>| {
        listed.iter().any(|one| one.id == 2 && one.peer_urls == ["https://10.9.9.9:6443"] && one.name == "m2")
    };
    until("the new address", async || cluster.list(3).await, moved).await;
    let added = client.call::<wire::Empty>("Cluster/MemberAdd", &wire::Empty {}).await;
    let (code, message) = refused(added);
    assert!(code == 12 && message.contains("rk server --server"), "{code} {message}");
}

#[tokio::test]
async fn members_agree_on_leader_contents_and_checksum_and_the_leadership_moves() {
    let cluster = Cluster::of(3).await;
    let (leader, followers) = cluster.leader_and_followers().await;
    for (n, by) in [1, 2, 3].into_iter().cycle().take(30).enumerate() {
        cluster.put(by, &format!("k{n}")).await.unwrap();
    }
    let revision = cluster.put(followers[0], "last").await.unwrap().header.unwrap().revision;
    let mut hashes = Vec::new();
    for client in cluster.clients.values() {
        // A linearizable read brings the member up to date.
        let read: wire::RangeResponse = client.call("KV/Range", &all()).await.unwrap();
        assert_eq!(read.count, 31);
        let asked = wire::HashKvRequest { revision };
        let told: wire::HashKvResponse = client.call("Maintenance/HashKV", &asked).await.unwrap();
        hashes.push((told.hash, told.hash_revision, told.compact_revision));
    }
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
    for id in 1..=3 {
        let status = cluster.status(id).await;
        assert_eq!((status.leader, status.is_learner, status.errors.len()), (leader, false, 0), "of {id}");
        assert!(status.raft_term > 0 && status.raft_applied_index > 30 && status.db_size_in_use > 0);
        assert_eq!(status.header.unwrap().member_id, id);
    }
    let heir = followers[0];
    let to = |target_id| wire::MoveLeaderRequest { target_id };
    let nobody = cluster.clients[&leader].call::<wire::HeaderOnly>("Maintenance/MoveLeader", &to(99)).await;
    assert_eq!(refused(nobody), (9, "etcdserver: bad leader transferee".to_owned()));
    let _: wire::HeaderOnly = cluster.clients[&leader].call("Maintenance/MoveLeader", &to(heir)).await.unwrap();
    for id in 1..=3 {
        until("the heir leads", async || cluster.status(id).await.leader, |leads| *leads == heir).await;
    }
}

#[tokio::test]
async fn a_member_that_is_cut_off_says_so_reads_what_it_has_and_goes_on_later() {
    let cluster = Cluster::of(3).await;
    let (leader, followers) = cluster.leader_and_followers().await;
    let alone = followers[0];
    cluster.put(leader, "before").await.unwrap();
    let client = &cluster.clients[&alone];
    let _: wire::RangeResponse = client.call("KV/Range", &all()).await.unwrap();
    let watch = async |client: &Client| {
        let create = ask(wire::WatchAsk::Create(everything(0)));
        let (asking, answers) = client.stream("Watch/Watch", &create).await.unwrap();
        let mut watching = Watching { asking, answers };
        assert!(watching.next().await.created);
        watching
    };
    let mut patient = watch(client).await;
    let mut choosy = watch(&client.requiring_leader()).await;
    cluster.members.net.isolate(alone, &[1, 2, 3]);
    let no_leader = (14, "etcdserver: no leader".to_owned());
    let ended = choosy.answers.next::<wire::WatchResponse>();
    let ended = tokio::time::timeout(PATIENCE, ended).await.expect("the watch ends");
    assert_eq!(refused(ended), no_leader);
    let status = cluster.status(alone).await;
    assert_eq!((status.leader, status.errors), (0, vec![no_leader.1.clone()]));
    // At once with the wish for a leader, after the wait for one without.
    let refused_read = client.requiring_leader().call::<wire::RangeResponse>("KV/Range", &all()).await;
    assert_eq!(refused(refused_read), no_leader);
    let local = wire::RangeRequest { serializable: true, ..all() };
    let read: wire::RangeResponse = client.call("KV/Range", &local).await.unwrap();
    assert_eq!(read.count, 1);
    let request = all();
    let read = client.call::<wire::RangeResponse>("KV/Range", &request);
    let (linearizable, written) = tokio::join!(read, cluster.put(alone, "lost"));
    assert_eq!((refused(linearizable), refused(written)), (no_leader.clone(), no_leader));
    let revision = until("a write by the others", async || cluster.put(leader, "after").await, Result::is_ok).await;
    let revision = revision.unwrap().header.unwrap().revision;
    cluster.members.net.heal();
    assert_eq!(*patient.revisions(1).await.last().unwrap(), revision);
    until("a leader again", async || cluster.status(alone).await.leader, |leader| *leader != 0).await;
    watch(&client.requiring_leader()).await;
    assert!(cluster.members.voters(alone).len() == 3 && cluster.members.store(alone).members()[0].role == Role::Voter);
}

#[tokio::test]
async fn a_leader_without_a_quorum_says_that_there_is_none() {
    let cluster = Cluster::of(3).await;
    let (leader, _) = cluster.leader_and_followers().await;
    assert_eq!(cluster.status(leader).await.leader, leader);
    cluster.members.net.isolate(leader, &[1, 2, 3]);
    let lost = |status: &wire::StatusResponse| status.leader == 0 && !status.errors.is_empty();
    until("that it leads nobody", async || cluster.status(leader).await, lost).await;
    let refused_write = cluster.clients[&leader].requiring_leader();
    let refused_write = refused_write.call::<wire::PutResponse>("KV/Put", &put_request("k", "v")).await;
    assert_eq!(refused(refused_write), (14, "etcdserver: no leader".to_owned()));
    cluster.members.net.heal();
    until("a leader", async || cluster.status(leader).await.leader, |leader| *leader != 0).await;
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_may_have_happened() {
    let cluster = Cluster::of(3).await;
    let (leader, followers) = cluster.leader_and_followers().await;
    let (deaf, other) = (followers[0], followers[1]);
    // What the leader sends is lost, answers included.
    cluster.members.net.cut_one_way(leader, deaf);
    let unknown = refused(cluster.put(deaf, "perhaps").await);
    assert_eq!(unknown, (14, "etcdserver: request timed out".to_owned()));
    let read: wire::RangeResponse = cluster.clients[&other].call("KV/Range", &all()).await.unwrap();
    assert_eq!(read.count, 1, "it has");
}

#[tokio::test]
async fn a_full_disk_is_an_alarm_until_there_is_space() {
    let disk = proof::disk::MemoryDisk::new(1);
    let config = storage::Config {
        disk: std::sync::Arc::new(disk.clone()),
        segment_bytes: 64 << 10,
        ..storage::Config::new("/store", 7)
    };
    let store = storage::Store::open(config).await.unwrap();
    let endpoint = Endpoint::new(store, Config::default()).await.unwrap();
    let client = connect(&endpoint).await;
    let alarms = async |action: wire::AlarmAction| {
        let request = wire::AlarmRequest { action: action as i32, member_id: 0, alarm: 0 };
        client.call::<wire::AlarmResponse>("Maintenance/Alarm", &request).await.unwrap().alarms
    };
    assert_eq!(alarms(wire::AlarmAction::Get).await, []);
    disk.set_full(true);
    let full = loop {
        // The space of the present segment is taken already.
        let put = put_request("k", vec![1; 100]);
        if let Err(error) = client.call::<wire::PutResponse>("KV/Put", &put).await {
            break refused::<()>(Err(error));
        }
    };
    assert_eq!(full, (8, "etcdserver: mvcc: database space exceeded".to_owned()));
    let status: wire::StatusResponse = client.call("Maintenance/Status", &wire::Empty {}).await.unwrap();
    assert_eq!(status.errors, [full.1]);
    // Disarming does not make space.
    assert_eq!(alarms(wire::AlarmAction::Deactivate).await, []);
    assert_eq!(alarms(wire::AlarmAction::Get).await, [wire::AlarmMember { member_id: 7, alarm: wire::NO_SPACE }]);
    let read: wire::RangeResponse = client.call("KV/Range", &all()).await.unwrap();
    assert_eq!(read.count, 1);
    disk.set_full(false);
    assert_eq!(alarms(wire::AlarmAction::Deactivate).await.len(), 1);
    assert_eq!(alarms(wire::AlarmAction::Get).await, []);
    let _: wire::PutResponse = client.call("KV/Put", &put_request("k", "v")).await.unwrap();
}

#[tokio::test]
async fn the_time_that_a_lease_has_yet_is_the_leaders_to_say() {
    let cluster = Cluster::of(3).await;
    let (_, followers) = cluster.leader_and_followers().await;
    let (one, other) = (&cluster.clients[&followers[0]], &cluster.clients[&followers[1]]);
    let grant = wire::LeaseGrantRequest { ttl: 2, id: 0x77 };
    let _: wire::LeaseGrantResponse = one.call("Lease/LeaseGrant", &grant).await.unwrap();
    let asked = wire::LeaseTimeToLiveRequest { id: 0x77, keys: false };
    let began = Instant::now();
    // Renewed for longer than it was granted for: only the leader hears of that.
    while began.elapsed() < Duration::from_millis(2500) {
        let id = wire::LeaseIdRequest { id: 0x77 };
        let (_asking, mut answers) = one.stream("Lease/LeaseKeepAlive", &id).await.unwrap();
        let renewed: wire::LeaseKeepAliveResponse = answers.next().await.unwrap().unwrap();
        assert_eq!(renewed.ttl, 2);
    }
    let left: wire::LeaseTimeToLiveResponse = other.call("Lease/LeaseTimeToLive", &asked).await.unwrap();
    assert!(left.ttl >= 1 && left.granted_ttl == 2, "{left:?}");
    let gone = async || other.call::<wire::LeaseTimeToLiveResponse>("Lease/LeaseTimeToLive", &asked).await.unwrap();
    until("its end", gone, |left| left.ttl == -1).await;
}
