//! What is replicated: batches of commands, and how they are written in a log entry.

use serde::{Deserialize, Serialize};

use crate::codec::{DecodeError, Decoder, put_bytes, put_i64, put_option, put_u64};
use crate::error::StoreError;
use crate::request::MAX_TXN_DEPTH;
use crate::types::{Compare, Durability, LeaseId, Op, Ordering, RangeRequest, Revision, Txn, TxnResponse};

/// One deterministic change of the state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Txn(Txn),
    Compact(Revision),
    LeaseGrant {
        id: LeaseId,
        ttl_secs: u64,
    },
    LeaseRevoke(LeaseId),
    /// Skips revisions, so that none that was seen before a power cut comes back with another meaning.
    Skip(u64),
}

/// Commands that share one log entry, thus one flush.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Whether the entry must be on disk before it counts as appended.
    pub(crate) synced: bool,
    pub(crate) commands: Vec<Command>,
}

/// What a command came to.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Txn(TxnResponse),
    Done,
}

impl Reply {
    /// What a transaction is answered.
    pub(crate) fn txn(self) -> Result<TxnResponse, StoreError> {
        match self {
            Self::Txn(response) => Ok(response),
            Self::Done => Err(StoreError::Failed),
        }
    }
}

/// What applying an entry came to. The outcomes stay on the member that proposed it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Applied {
    #[serde(skip)]
    pub(crate) outcomes: Vec<Result<Reply, StoreError>>,
}

impl Batch {
    /// An upper bound of the encoded size.
    pub(crate) fn size(&self) -> usize {
        16 + self.commands.iter().map(Command::size).sum::<usize>()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.synced));
        put_u64(out, self.commands.len() as u64);
        for command in &self.commands {
            command.encode(out);
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(bytes);
        let synced = input.bool()?;
        let count = input.len()?;
        let commands = (0..count).map(|_| Command::decode(&mut input)).collect::<Result<_, _>>()?;
        if input.is_empty() { Ok(Self { synced, commands }) } else { Err(DecodeError("batch")) }
    }
}

impl Command {
    pub(crate) fn synced(&self) -> bool {
        !matches!(self, Self::Txn(Txn { durability: Durability::Coalesced, .. }))
    }

    /// An upper bound of the encoded size.
    pub(crate) fn size(&self) -> usize {
        let Self::Txn(txn) = self else { return 32 };
        txn_size(txn)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Txn(txn) => {
                out.push(0);
                encode_txn(out, txn);
            }
            Self::Compact(revision) => {
                out.push(1);
                put_u64(out, *revision);
            }
            Self::LeaseGrant { id, ttl_secs } => {
                out.push(2);
                put_i64(out, *id);
                put_u64(out, *ttl_secs);
            }
            Self::LeaseRevoke(id) => {
                out.push(3);
                put_i64(out, *id);
            }
            Self::Skip(revisions) => {
                out.push(4);
                put_u64(out, *revisions);
            }
        }
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match input.u8()? {
            0 => Self::Txn(decode_txn(input, 0)?),
            1 => Self::Compact(input.u64()?),
            2 => Self::LeaseGrant { id: input.i64()?, ttl_secs: input.u64()? },
            3 => Self::LeaseRevoke(input.i64()?),
            4 => Self::Skip(input.u64()?),
            _ => return Err(DecodeError("command")),
        })
    }
}

fn txn_size(txn: &Txn) -> usize {
    let compares: usize = txn.compares.iter().map(compare_size).sum();
    let ops: usize = txn.success.iter().chain(&txn.failure).map(op_size).sum();
    64 + compares + ops
}

fn compare_size(compare: &Compare) -> usize {
    32 + match compare {
        Compare::Value { key, value, .. } => key.len() + value.len(),
        Compare::ModRevision { key, .. }
        | Compare::CreateRevision { key, .. }
        | Compare::Version { key, .. }
        | Compare::Lease { key, .. } => key.len(),
        Compare::All { condition, end } => end.len() + compare_size(condition),
    }
}

fn op_size(op: &Op) -> usize {
    48 + match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete { key, end, .. } => key.len() + end.as_ref().map_or(0, bytes::Bytes::len),
        Op::Range(range) => range.key.len() + range.end.as_ref().map_or(0, bytes::Bytes::len),
        Op::Update { key, value, .. } => key.len() + value.as_ref().map_or(0, bytes::Bytes::len),
        Op::Txn(txn) => txn_size(txn),
    }
}

/// The tag of a compare that wraps another.
const ALL: u8 = 5;

fn encode_txn(out: &mut Vec<u8>, txn: &Txn) {
    out.push(u8::from(txn.durability == Durability::Coalesced));
    put_u64(out, txn.compares.len() as u64);
    for compare in &txn.compares {
        encode_compare(out, compare);
    }
    for ops in [&txn.success, &txn.failure] {
        put_u64(out, ops.len() as u64);
        for op in ops {
            encode_op(out, op);
        }
    }
}

fn decode_txn(input: &mut Decoder<'_>, depth: usize) -> Result<Txn, DecodeError> {
    if depth > MAX_TXN_DEPTH {
        return Err(DecodeError("nesting"));
    }
    let durability = if input.bool()? { Durability::Coalesced } else { Durability::Synced };
    let compares = (0..input.len()?).map(|_| decode_compare(input)).collect::<Result<_, _>>()?;
    let success = (0..input.len()?).map(|_| decode_op(input, depth)).collect::<Result<_, _>>()?;
    let failure = (0..input.len()?).map(|_| decode_op(input, depth)).collect::<Result<_, _>>()?;
    Ok(Txn { compares, success, failure, durability })
}

fn encode_compare(out: &mut Vec<u8>, compare: &Compare) {
    let (tag, key, order) = match compare {
        Compare::ModRevision { key, order, .. } => (0, key, order),
        Compare::CreateRevision { key, order, .. } => (1, key, order),
        Compare::Version { key, order, .. } => (2, key, order),
        Compare::Value { key, order, .. } => (3, key, order),
        Compare::Lease { key, order, .. } => (4, key, order),
        Compare::All { condition, end } => {
            out.push(ALL);
            put_bytes(out, end);
            return encode_compare(out, condition);
        }
    };
    let order = match order {
        Ordering::Equal => 0,
        Ordering::NotEqual => 1,
        Ordering::Greater => 2,
        Ordering::Less => 3,
    };
    out.extend([tag, order]);
    put_bytes(out, key);
    match compare {
        Compare::ModRevision { revision: number, .. }
        | Compare::CreateRevision { revision: number, .. }
        | Compare::Version { version: number, .. } => put_u64(out, *number),
        Compare::Value { value, .. } => put_bytes(out, value),
        Compare::Lease { lease, .. } => put_i64(out, *lease),
        Compare::All { .. } => {}
    }
}

fn decode_compare(input: &mut Decoder<'_>) -> Result<Compare, DecodeError> {
    let tag = input.u8()?;
    if tag != ALL {
        return decode_simple_compare(tag, input);
    }
    let end = input.bytes()?;
    let tag = input.u8()?;
    Ok(Compare::All { condition: Box::new(decode_simple_compare(tag, input)?), end })
}

fn decode_simple_compare(tag: u8, input: &mut Decoder<'_>) -> Result<Compare, DecodeError> {
    let order = match input.u8()? {
        0 => Ordering::Equal,
        1 => Ordering::NotEqual,
        2 => Ordering::Greater,
        3 => Ordering::Less,
        _ => return Err(DecodeError("order")),
    };
    let key = input.bytes()?;
    Ok(match tag {
        0 => Compare::ModRevision { key, order, revision: input.u64()? },
        1 => Compare::CreateRevision { key, order, revision: input.u64()? },
        2 => Compare::Version { key, order, version: input.u64()? },
        3 => Compare::Value { key, order, value: input.bytes()? },
        4 => Compare::Lease { key, order, lease: input.i64()? },
        _ => return Err(DecodeError("compare")),
    })
}

fn encode_op(out: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Put { key, value, lease, prev_kv } => {
            out.push(0);
            put_bytes(out, key);
            put_bytes(out, value);
            put_i64(out, *lease);
            out.push(u8::from(*prev_kv));
        }
        Op::Delete { key, end, prev_kv } => {
            out.push(1);
            put_bytes(out, key);
            put_option(out, end.as_ref());
            out.push(u8::from(*prev_kv));
        }
        Op::Range(range) => {
            out.push(2);
            put_bytes(out, &range.key);
            put_option(out, range.end.as_ref());
            put_u64(out, range.revision.map_or(0, |revision| revision.saturating_add(1)));
            put_u64(out, range.limit as u64);
            out.extend([u8::from(range.count_only), u8::from(range.keys_only)]);
        }
        Op::Update { key, value, lease, prev_kv } => {
            out.push(3);
            put_bytes(out, key);
            put_option(out, value.as_ref());
            out.push(u8::from(lease.is_some()));
            put_i64(out, lease.unwrap_or(0));
            out.push(u8::from(*prev_kv));
        }
        Op::Txn(txn) => {
            out.push(4);
            encode_txn(out, txn);
        }
    }
}

fn decode_op(input: &mut Decoder<'_>, depth: usize) -> Result<Op, DecodeError> {
    Ok(match input.u8()? {
        0 => Op::Put { key: input.bytes()?, value: input.bytes()?, lease: input.i64()?, prev_kv: input.bool()? },
        1 => Op::Delete { key: input.bytes()?, end: input.option()?, prev_kv: input.bool()? },
        2 => Op::Range(RangeRequest {
            key: input.bytes()?,
            end: input.option()?,
            revision: input.u64()?.checked_sub(1),
            limit: usize::try_from(input.u64()?).unwrap_or(usize::MAX),
            count_only: input.bool()?,
            keys_only: input.bool()?,
        }),
        3 => Op::Update {
            key: input.bytes()?,
            value: input.option()?,
            lease: {
                let given = input.bool()?;
                Some(input.i64()?).filter(|_| given)
            },
            prev_kv: input.bool()?,
        },
        4 => Op::Txn(decode_txn(input, depth + 1)?),
        _ => return Err(DecodeError("operation")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_comes_back_and_fits_its_estimate() {
        let key = bytes::Bytes::from_static(b"k");
        let order = Ordering::Less;
        let update = |value, lease| Op::Update { key: key.clone(), value, lease, prev_kv: true };
        let inner = Txn {
            compares: vec![Compare::absent("inner")],
            success: vec![update(None, Some(4)), update(Some(key.clone()), None)],
            failure: vec![Op::Txn(Txn::default())],
            durability: Durability::Synced,
        };
        let txn = Txn {
            compares: vec![
                Compare::absent(key.clone()),
                Compare::Value { key: key.clone(), order, value: key.clone() },
                Compare::Lease { key: key.clone(), order, lease: -3 },
                Compare::Version { key: key.clone(), order, version: u64::MAX },
                Compare::CreateRevision { key: key.clone(), order, revision: 9 },
                Compare::All { condition: Box::new(Compare::absent(key.clone())), end: key.clone() },
            ],
            success: vec![Op::put(key.clone(), "v"), Op::delete(key.clone()), Op::Txn(inner)],
            failure: vec![Op::Range(RangeRequest { revision: Some(0), limit: 3, ..RangeRequest::prefix("a") })],
            durability: Durability::Coalesced,
        };
        let commands = vec![
            Command::Txn(txn),
            Command::Compact(7),
            Command::LeaseGrant { id: i64::MIN, ttl_secs: 5 },
            Command::LeaseRevoke(1),
            Command::Skip(1000),
        ];
        let batch = Batch { synced: true, commands };
        let mut out = Vec::new();
        batch.encode(&mut out);
        assert!(out.len() <= 16 + batch.commands.iter().map(Command::size).sum::<usize>());
        assert_eq!(Batch::decode(&out).unwrap(), batch);
        for cut in 0..out.len() {
            assert!(Batch::decode(&out[..cut]).is_err(), "a batch cut at {cut} was read");
        }
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let deep = (0..100_000).fold(Vec::new(), |mut out, _| {
            out.extend([0, 0, 1, 4]);
            out
        });
        assert_eq!(Command::decode(&mut Decoder::new(&[&[0], &deep[..]].concat())), Err(DecodeError("nesting")));
    }
}
