//! How the outcome of a transaction travels from the leader to the member that passed it on.

use std::path::PathBuf;

use super::text;
use crate::codec::{DecodeError, Decoder, put_bytes, put_i64, put_u64};
use crate::command::Reply;
use crate::error::StoreError;
use crate::members::MemberError;
use crate::request::MAX_TXN_DEPTH;
use crate::types::{KeyValue, OpResult, RangeResponse, TxnResponse};

pub(super) fn put(out: &mut Vec<u8>, outcome: &Result<Reply, StoreError>) {
    match outcome {
        Ok(Reply::Done) => out.push(0),
        Ok(Reply::Txn(response)) => {
            out.push(1);
            put_txn(out, response);
        }
        Err(error) => {
            out.push(2);
            put_error(out, error);
        }
    }
}

pub(super) fn get(input: &mut Decoder<'_>) -> Result<Result<Reply, StoreError>, DecodeError> {
    Ok(match input.u8()? {
        0 => Ok(Reply::Done),
        1 => Ok(Reply::Txn(txn(input, 0)?)),
        2 => Err(error(input)?),
        _ => return Err(DecodeError("outcome")),
    })
}

fn put_kv(out: &mut Vec<u8>, kv: &KeyValue) {
    put_bytes(out, &kv.key);
    put_bytes(out, &kv.value);
    put_u64(out, kv.create_revision);
    put_u64(out, kv.mod_revision);
    put_u64(out, kv.version);
    put_i64(out, kv.lease);
}

fn kv(input: &mut Decoder<'_>) -> Result<KeyValue, DecodeError> {
    Ok(KeyValue {
        key: input.bytes()?,
        value: input.bytes()?,
        create_revision: input.u64()?,
        mod_revision: input.u64()?,
        version: input.u64()?,
        lease: input.i64()?,
    })
}

fn put_kvs(out: &mut Vec<u8>, kvs: &[KeyValue]) {
    put_u64(out, kvs.len() as u64);
    kvs.iter().for_each(|kv| put_kv(out, kv));
}

fn kvs(input: &mut Decoder<'_>) -> Result<Vec<KeyValue>, DecodeError> {
    (0..input.len()?).map(|_| kv(input)).collect()
}

fn put_txn(out: &mut Vec<u8>, response: &TxnResponse) {
    put_u64(out, response.revision);
    out.push(u8::from(response.succeeded));
    put_u64(out, response.results.len() as u64);
    for result in &response.results {
        match result {
            OpResult::Put { prev } => {
                out.push(0);
                put_kvs(out, prev.as_slice());
            }
            OpResult::Delete { deleted, prev } => {
                out.push(1);
                put_u64(out, *deleted);
                put_kvs(out, prev);
            }
            OpResult::Range(range) => {
                out.push(2);
                put_u64(out, range.revision);
                put_kvs(out, &range.kvs);
                out.push(u8::from(range.more));
                put_u64(out, range.count);
            }
            OpResult::Txn(inner) => {
                out.push(3);
                put_txn(out, inner);
            }
        }
    }
}

fn txn(input: &mut Decoder<'_>, depth: usize) -> Result<TxnResponse, DecodeError> {
    if depth > MAX_TXN_DEPTH {
        return Err(DecodeError("nesting"));
    }
    let (revision, succeeded) = (input.u64()?, input.bool()?);
    let results = (0..input.len()?).map(|_| result(input, depth)).collect::<Result<_, _>>()?;
    Ok(TxnResponse { revision, succeeded, results })
}

fn result(input: &mut Decoder<'_>, depth: usize) -> Result<OpResult, DecodeError> {
    Ok(match input.u8()? {
        0 => OpResult::Put { prev: kvs(input)?.pop() },
        1 => OpResult::Delete { deleted: input.u64()?, prev: kvs(input)? },
        2 => {
            let (revision, kvs) = (input.u64()?, kvs(input)?);
            OpResult::Range(RangeResponse { revision, kvs, more: input.bool()?, count: input.u64()? })
        }
        3 => OpResult::Txn(txn(input, depth + 1)?),
        _ => return Err(DecodeError("result")),
    })
}

/// Errors after which the leader does not know whether the transaction happened are unknown to the asker, too.
fn put_error(out: &mut Vec<u8>, error: &StoreError) {
    let mut pair = |kind: u8, one: u64, other: u64| {
        out.push(kind);
        put_u64(out, one);
        put_u64(out, other);
    };
    match error {
        StoreError::DiskFull { dir } => {
            out.push(1);
            put_bytes(out, dir.to_string_lossy().as_bytes());
        }
        StoreError::KeySize { size, max } => pair(2, *size as u64, *max as u64),
        StoreError::TooLarge { size, max } => pair(3, *size as u64, *max as u64),
        StoreError::DuplicateKey => pair(4, 0, 0),
        StoreError::Compacted { revision, oldest } => pair(5, *revision, *oldest),
        StoreError::FutureRevision { revision, current } => pair(6, *revision, *current),
        StoreError::LeaseNotFound(id) => pair(7, id.cast_unsigned(), 0),
        StoreError::LeaseExists(id) => pair(8, id.cast_unsigned(), 0),
        StoreError::NoLeader | StoreError::Excluded(_) => pair(9, 0, 0),
        StoreError::Unknown | StoreError::Failed | StoreError::Closed => pair(10, 0, 0),
        StoreError::KeyNotFound => pair(11, 0, 0),
        StoreError::TooDeep { max } => pair(12, *max as u64, 0),
    }
}

fn error(input: &mut Decoder<'_>) -> Result<StoreError, DecodeError> {
    let kind = input.u8()?;
    if kind == 1 {
        return Ok(StoreError::DiskFull { dir: PathBuf::from(text(input)?) });
    }
    let (one, other) = (input.u64()?, input.u64()?);
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Ok(match kind {
        2 => StoreError::KeySize { size: size(one), max: size(other) },
        3 => StoreError::TooLarge { size: size(one), max: size(other) },
        4 => StoreError::DuplicateKey,
        5 => StoreError::Compacted { revision: one, oldest: other },
        6 => StoreError::FutureRevision { revision: one, current: other },
        7 => StoreError::LeaseNotFound(one.cast_signed()),
        8 => StoreError::LeaseExists(one.cast_signed()),
        9 => StoreError::NoLeader,
        10 => StoreError::Unknown,
        11 => StoreError::KeyNotFound,
        12 => StoreError::TooDeep { max: size(one) },
        _ => return Err(DecodeError("error")),
    })
}

pub(super) fn put_lease(out: &mut Vec<u8>, outcome: &Result<u64, StoreError>) {
    match outcome {
        Ok(seconds) => {
            out.push(0);
            put_u64(out, *seconds);
        }
        Err(error) => {
            out.push(1);
            put_error(out, error);
        }
    }
}

pub(super) fn lease(input: &mut Decoder<'_>) -> Result<Result<u64, StoreError>, DecodeError> {
    Ok(if input.bool()? { Err(error(input)?) } else { Ok(input.u64()?) })
}

pub(super) fn put_change(out: &mut Vec<u8>, outcome: &Result<(), MemberError>) {
    let (kind, id, number, other, name): (u8, u64, u64, u64, &str) = match outcome {
        Ok(()) => (0, 0, 0, 0, ""),
        Err(error) => match error {
            MemberError::IdInUse { id, name } => (1, *id, 0, 0, name),
            MemberError::NameInUse { name, id } => (2, *id, 0, 0, name),
            MemberError::Incomplete => (3, 0, 0, 0, ""),
            MemberError::NotFound(id) => (4, *id, 0, 0, ""),
            MemberError::LastVoter(id) => (5, *id, 0, 0, ""),
            MemberError::WouldLoseQuorum { id, alive, voters } => (6, *id, *alive as u64, *voters as u64, ""),
            MemberError::Behind { id, lag } => (7, *id, *lag, 0, ""),
            MemberError::NotAVoter(id) => (8, *id, 0, 0, ""),
            MemberError::NotTakenOver(id) => (9, *id, 0, 0, ""),
            MemberError::Busy => (10, 0, 0, 0, ""),
            MemberError::NoLeader => (11, 0, 0, 0, ""),
            MemberError::Unknown | MemberError::Closed => (12, 0, 0, 0, ""),
        },
    };
    out.push(kind);
    for word in [id, number, other] {
        put_u64(out, word);
    }
    put_bytes(out, name.as_bytes());
}

pub(super) fn change(input: &mut Decoder<'_>) -> Result<Result<(), MemberError>, DecodeError> {
    let kind = input.u8()?;
    let (id, number, other, name) = (input.u64()?, input.u64()?, input.u64()?, text(input)?);
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Ok(Err(match kind {
        0 => return Ok(Ok(())),
        1 => MemberError::IdInUse { id, name },
        2 => MemberError::NameInUse { name, id },
        3 => MemberError::Incomplete,
        4 => MemberError::NotFound(id),
        5 => MemberError::LastVoter(id),
        6 => MemberError::WouldLoseQuorum { id, alive: size(number), voters: size(other) },
        7 => MemberError::Behind { id, lag: number },
        8 => MemberError::NotAVoter(id),
        9 => MemberError::NotTakenOver(id),
        10 => MemberError::Busy,
        11 => MemberError::NoLeader,
        12 => MemberError::Unknown,
        _ => return Err(DecodeError("change outcome")),
    }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn comes_back(outcome: &Result<Reply, StoreError>) {
        let mut out = Vec::new();
        put(&mut out, outcome);
        let mut input = Decoder::new(&out);
        let read = get(&mut input).unwrap();
        assert!(input.is_empty());
        assert_eq!(format!("{read:?}"), format!("{outcome:?}"));
        for cut in 0..out.len() {
            assert!(get(&mut Decoder::new(&out[..cut])).is_err(), "an outcome cut at {cut} was read");
        }
    }

    #[test]
    fn outcomes_come_back() {
        let kv = |key: &'static str| KeyValue {
            key: Bytes::from(key),
            value: Bytes::from("value"),
            create_revision: 3,
            mod_revision: 400,
            version: 2,
            lease: -7,
        };
        let range = RangeResponse { revision: 9, kvs: vec![kv("a"), kv("b")], more: true, count: 7 };
        let results = vec![
            OpResult::Put { prev: Some(kv("c")) },
            OpResult::Put { prev: None },
            OpResult::Delete { deleted: 2, prev: vec![kv("d")] },
            OpResult::Range(range),
        ];
        comes_back(&Ok(Reply::Txn(TxnResponse { revision: 500, succeeded: true, results })));
        comes_back(&Ok(Reply::Done));
        comes_back(&Err(StoreError::DiskFull { dir: PathBuf::from("/data") }));
        comes_back(&Err(StoreError::LeaseNotFound(i64::MIN)));
        comes_back(&Err(StoreError::Compacted { revision: 1, oldest: 5 }));
    }
}
