//! What several members do together: write and read through any of them.

use storage::{Op, RangeRequest, StoreError, Txn};

use super::net::{Members, put, value};

async fn writes_and_reads_through_every_member(voters: u64) {
    let members = Members::of(voters).await;
    assert_eq!(members.voters(1), (1..=voters).collect::<Vec<_>>());
    for round in 0..20 {
        for writer in members.stores() {
            let (key, text) = (format!("k{}", writer.node_id()), format!("{round}"));
            let revision = writer.txn(put(key.clone(), text.clone())).await.unwrap().revision;
            assert_eq!(value(&writer, &key).as_ref(), Some(&text), "a member reads what it wrote");
            for reader in members.stores() {
                assert!(reader.read_barrier().await.unwrap() >= revision);
                assert_eq!(value(&reader, &key).as_ref(), Some(&text), "a read is never stale");
            }
        }
    }
    members.agree().await;
}

#[tokio::test]
async fn one_member_serves() {
    writes_and_reads_through_every_member(1).await;
}

#[tokio::test]
async fn three_members_serve_alike() {
    writes_and_reads_through_every_member(3).await;
}

#[tokio::test]
async fn five_members_serve_alike() {
    writes_and_reads_through_every_member(5).await;
}

#[tokio::test]
async fn answers_of_transactions_are_the_same_through_every_member() {
    let members = Members::of(3).await;
    members.store(1).txn(put("a", "first")).await.unwrap();
    let txn = || Txn {
        compares: vec![storage::Compare::unchanged("a", 1)],
        success: vec![
            Op::Put { key: "b".into(), value: "x".into(), lease: 0, prev_kv: true },
            Op::Range(RangeRequest::prefix("")),
        ],
        ..Txn::default()
    };
    let mut seen = Vec::new();
    for store in members.stores() {
        let response = store.txn(txn()).await.unwrap();
        assert!(response.succeeded);
        seen.push(response);
    }
    assert_eq!((seen[1].revision, seen[2].revision), (3, 4));
    for response in &seen[1..] {
        let [storage::OpResult::Put { prev: Some(prev) }, storage::OpResult::Range(range)] = &response.results[..]
        else {
            unreachable!("{response:?}")
        };
        assert_eq!((&prev.value[..], prev.mod_revision), (&b"x"[..], response.revision - 1));
        assert_eq!((range.kvs.len(), range.kvs[1].mod_revision), (2, response.revision));
    }
    for store in members.stores() {
        let unknown = Op::Put { key: "c".into(), value: "x".into(), lease: 77, prev_kv: false };
        let error = store.txn(Txn { success: vec![unknown], ..Txn::default() }).await.unwrap_err();
        assert!(matches!(error, StoreError::LeaseNotFound(77)), "{error}");
    }
}
