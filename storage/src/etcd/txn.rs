//! Transactions as etcd has them, turned into the store's, and the store's answers turned back.

use crate::types::{self, Bytes, Op, OpResult};

use super::keys;
use super::range::{self, Shape};
use super::status::Status;
use super::wire::{self, CompareResult, CompareTarget, Compared, Request, Response};

/// Operations per branch, those of transactions inside included; etcd's own default.
pub(super) const MAX_OPS: usize = 128;

/// How the answers of one branch are to be written.
#[derive(Debug)]
enum Form {
    Range(Shape),
    Txn(Forms),
    Plain,
}

/// How the answers of a transaction are to be written.
#[derive(Debug)]
pub(super) struct Forms {
    success: Vec<Form>,
    failure: Vec<Form>,
}

/// Whether an answer may have more than a value for each operation.
pub(super) fn may_be_large(request: &wire::TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Request::Range(range)) => range::may_be_large(range),
        Some(Request::DeleteRange(delete)) => keys::may_be_large(delete),
        Some(Request::Txn(_)) => true,
        Some(Request::Put(_)) | None => false,
    })
}

/// Whether it can change anything, as far as can be told without a look into transactions inside.
pub(super) fn writes(request: &wire::TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    ops.any(|op| matches!(&op.request, Some(Request::Put(_) | Request::DeleteRange(_))))
}

/// The store's transaction, and how to write its answer.
pub(super) fn split(request: wire::TxnRequest) -> Result<(types::Txn, Forms), Status> {
    nested(request, MAX_OPS)
}

fn nested(request: wire::TxnRequest, allowed: usize) -> Result<(types::Txn, Forms), Status> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = allowed.checked_sub(longest).ok_or_else(Status::too_many_ops)?;
    let compares = request.compare.into_iter().map(compare).collect::<Result<_, _>>()?;
    let (success, success_forms) = branch(request.success, left)?;
    let (failure, failure_forms) = branch(request.failure, left)?;
    let txn = types::Txn { compares, success, failure, ..types::Txn::default() };
    Ok((txn, Forms { success: success_forms, failure: failure_forms }))
}

fn branch(requests: Vec<wire::RequestOp>, left: usize) -> Result<(Vec<Op>, Vec<Form>), Status> {
    let ops: Vec<_> = requests.into_iter().map(|op| step(op, left)).collect::<Result<_, _>>()?;
    Ok(ops.into_iter().unzip())
}

fn step(op: wire::RequestOp, left: usize) -> Result<(Op, Form), Status> {
    // What etcd answers to an operation that says nothing.
    let request = op.request.ok_or_else(|| Status::invalid("etcdserver: key not found"))?;
    Ok(match request {
        Request::Range(request) => {
            let (read, shape) = range::split(request)?;
            (Op::Range(read), Form::Range(shape))
        }
        Request::Put(request) => (put(request)?, Form::Plain),
        Request::DeleteRange(request) => (delete(request)?, Form::Plain),
        Request::Txn(request) => {
            let (txn, forms) = nested(request, left)?;
            (Op::Txn(txn), Form::Txn(forms))
        }
    })
}

pub(super) fn put(request: wire::PutRequest) -> Result<Op, Status> {
    let wire::PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease } = request;
    if key.is_empty() {
        return Err(Status::empty_key());
    }
    if ignore_value && !value.is_empty() {
        return Err(Status::invalid("etcdserver: value is provided"));
    }
    if ignore_lease && lease != 0 {
        return Err(Status::invalid("etcdserver: lease is provided"));
    }
    let (key, value) = (key.into(), Bytes::from(value));
    Ok(if ignore_value || ignore_lease {
        let value = (!ignore_value).then_some(value);
        Op::Update { key, value, lease: (!ignore_lease).then_some(lease), prev_kv }
    } else {
        Op::Put { key, value, lease, prev_kv }
    })
}

pub(super) fn delete(request: wire::DeleteRangeRequest) -> Result<Op, Status> {
    if request.key.is_empty() {
        return Err(Status::empty_key());
    }
    Ok(Op::Delete { key: request.key.into(), end: range::end(request.range_end), prev_kv: request.prev_kv })
}

fn compare(compare: wire::Compare) -> Result<types::Compare, Status> {
    if compare.key.is_empty() {
        return Err(Status::empty_key());
    }
    let unknown = |_| Status::invalid("etcdserver: unknown compare");
    let order = match CompareResult::try_from(compare.result).map_err(unknown)? {
        CompareResult::Equal => types::Ordering::Equal,
        CompareResult::Greater => types::Ordering::Greater,
        CompareResult::Less => types::Ordering::Less,
        CompareResult::NotEqual => types::Ordering::NotEqual,
    };
    let key = Bytes::from(compare.key);
    // A value of another kind than the target counts as 0, as with etcd.
    let number = match compare.compared {
        Some(Compared::Version(number) | Compared::CreateRevision(number) | Compared::ModRevision(number)) => number,
        Some(Compared::Value(_) | Compared::Lease(_)) | None => 0,
    };
    let (bounded, revision) = unsigned(order, number);
    let condition = match CompareTarget::try_from(compare.target).map_err(unknown)? {
        CompareTarget::Version => types::Compare::Version { key, order: bounded, version: revision },
        CompareTarget::Create => types::Compare::CreateRevision { key, order: bounded, revision },
        CompareTarget::Mod => types::Compare::ModRevision { key, order: bounded, revision },
        CompareTarget::Value => {
            let value = if let Some(Compared::Value(value)) = compare.compared { value.into() } else { Bytes::new() };
            types::Compare::Value { key, order, value }
        }
        CompareTarget::Lease => {
            let lease = if let Some(Compared::Lease(lease)) = compare.compared { lease } else { 0 };
            types::Compare::Lease { key, order, lease }
        }
    };
    Ok(match range::end(compare.range_end) {
        None => condition,
        Some(end) => types::Compare::All { condition: Box::new(condition), end },
    })
}

/// The store counts from 0: every number it has is above a negative one.
fn unsigned(order: types::Ordering, number: i64) -> (types::Ordering, u64) {
    use types::Ordering::{Equal, Greater, Less, NotEqual};
    match (u64::try_from(number), order) {
        (Ok(number), order) => (order, number),
        (Err(_), Equal | Less) => (Equal, u64::MAX),
        (Err(_), Greater | NotEqual) => (NotEqual, u64::MAX),
    }
}

impl Forms {
    /// The answer, with `header` on each part but empty inside, as etcd writes it.
    pub(super) fn write(&self, response: types::TxnResponse, header: wire::ResponseHeader) -> wire::TxnResponse {
        let header = wire::ResponseHeader { revision: response.revision.cast_signed(), ..header };
        let inner = wire::ResponseHeader { revision: header.revision, ..wire::ResponseHeader::default() };
        wire::TxnResponse { header: Some(header), ..self.body(response, inner) }
    }

    fn body(&self, response: types::TxnResponse, header: wire::ResponseHeader) -> wire::TxnResponse {
        let forms = if response.succeeded { &self.success } else { &self.failure };
        let parts = response.results.into_iter().zip(forms);
        let responses = parts.map(|(result, form)| wire::ResponseOp { response: Some(part(result, form, header)) });
        wire::TxnResponse { header: Some(header), succeeded: response.succeeded, responses: responses.collect() }
    }
}

fn part(result: OpResult, form: &Form, header: wire::ResponseHeader) -> Response {
    match (result, form) {
        (OpResult::Put { prev }, _) => Response::Put(put_response(prev, header)),
        (OpResult::Delete { deleted, prev }, _) => Response::DeleteRange(delete_response(deleted, prev, header)),
        (OpResult::Range(range), form) => {
            let shape = if let Form::Range(shape) = form { *shape } else { Shape::PLAIN };
            Response::Range(wire::RangeResponse { header: Some(header), ..shape.apply(range) })
        }
        (OpResult::Txn(txn), Form::Txn(forms)) => Response::Txn(forms.body(txn, header)),
        (OpResult::Txn(txn), _) => {
            let succeeded = txn.succeeded;
            Response::Txn(wire::TxnResponse { header: Some(header), succeeded, responses: Vec::new() })
        }
    }
}

pub(super) fn put_response(prev: Option<types::KeyValue>, header: wire::ResponseHeader) -> wire::PutResponse {
    wire::PutResponse { header: Some(header), prev_kv: prev.map(Into::into) }
}

pub(super) fn delete_response(
    deleted: u64,
    prev: Vec<types::KeyValue>,
    header: wire::ResponseHeader,
) -> wire::DeleteRangeResponse {
    let prev_kvs = prev.into_iter().map(Into::into).collect();
    wire::DeleteRangeResponse { header: Some(header), deleted: deleted.cast_signed(), prev_kvs }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_of(key: &str) -> wire::RequestOp {
        let put = wire::PutRequest { key: key.into(), ..Default::default() };
        wire::RequestOp { request: Some(Request::Put(put)) }
    }

    #[test]
    fn operations_inside_count() {
        let inner = wire::TxnRequest { success: vec![put_of("k"); 100], ..Default::default() };
        let op = wire::RequestOp { request: Some(Request::Txn(inner)) };
        let outer = |beside| {
            let success = std::iter::once(op.clone()).chain(vec![put_of("k"); beside]).collect();
            split(wire::TxnRequest { success, ..Default::default() }).err()
        };
        assert_eq!(outer(27), None);
        assert_eq!(outer(28), Some(Status::too_many_ops()));
    }

    #[test]
    fn every_stored_number_is_above_a_negative_one() {
        use types::Ordering::{Equal, Greater, Less, NotEqual};
        for (order, holds) in [(Equal, false), (Less, false), (Greater, true), (NotEqual, true)] {
            let (order, number) = unsigned(order, -5);
            let related = match order {
                Equal => 3 == number,
                _ => 3 != number,
            };
            assert_eq!(related, holds);
        }
        assert_eq!(unsigned(Less, 7), (Less, 7));
    }

    #[test]
    fn what_is_to_be_ignored_may_not_be_given() {
        let request = wire::PutRequest { key: b"k".to_vec(), value: b"v".to_vec(), ..Default::default() };
        let given = put(wire::PutRequest { ignore_value: true, ..request.clone() }).unwrap_err();
        assert_eq!(given.message, "etcdserver: value is provided");
        let given = put(wire::PutRequest { ignore_lease: true, lease: 3, ..request.clone() }).unwrap_err();
        assert_eq!(given.message, "etcdserver: lease is provided");
        let kept = put(wire::PutRequest { ignore_lease: true, ..request }).unwrap();
        assert!(matches!(kept, Op::Update { value: Some(_), lease: None, .. }));
    }
}
