//! The KV service: ranges, puts, deletions, transactions, compaction.

use crate::types::{Op, OpResult, Txn, TxnResponse};

use super::serve::Call;
use super::status::{Code, Status};
use super::{Endpoint, range, txn, wire};

/// Whether the answer may have more than a value.
pub(super) fn may_be_large(request: &wire::DeleteRangeRequest) -> bool {
    request.prev_kv && !request.range_end.is_empty()
}

/// What a transaction of one operation came to.
fn only(response: TxnResponse) -> Result<OpResult, Status> {
    response.results.into_iter().next().ok_or_else(|| Status::new(Code::Internal, "an operation without a result"))
}

pub(super) fn put_answer(response: TxnResponse, endpoint: &Endpoint) -> Result<wire::PutResponse, Status> {
    let header = endpoint.header(response.revision);
    let prev = if let OpResult::Put { prev } = only(response)? { prev } else { None };
    Ok(txn::put_response(prev, header))
}

pub(super) fn delete_answer(response: TxnResponse, endpoint: &Endpoint) -> Result<wire::DeleteRangeResponse, Status> {
    let header = endpoint.header(response.revision);
    let (deleted, prev) =
        if let OpResult::Delete { deleted, prev } = only(response)? { (deleted, prev) } else { (0, Vec::new()) };
    Ok(txn::delete_response(deleted, prev, header))
}

pub(super) fn txn_answer(response: TxnResponse, forms: &txn::Forms, endpoint: &Endpoint) -> wire::TxnResponse {
    let header = endpoint.header(response.revision);
    forms.write(response, header)
}

impl Endpoint {
    pub(super) async fn keys(&self, method: &str, call: Call) {
        match method {
            "Range" => call.in_turn(range::may_be_large, async |request| self.range(request).await).await,
            "Put" => call.unary(async |request| self.put(request).await).await,
            "DeleteRange" => call.in_turn(may_be_large, async |request| self.delete_range(request).await).await,
            "Txn" => call.in_turn(txn::may_be_large, async |request| self.txn(request).await).await,
            "Compact" => call.unary(async |request| self.compact(request).await).await,
            _ => call.unknown(method),
        }
    }

    async fn range(&self, request: wire::RangeRequest) -> Result<wire::RangeResponse, Status> {
        let serializable = request.serializable;
        let (read, shape) = range::split(request)?;
        if !serializable {
            self.store().read_barrier().await?;
        }
        let response = self.store().range(&read)?;
        let header = self.header(response.revision);
        Ok(wire::RangeResponse { header: Some(header), ..shape.apply(response) })
    }

    /// One operation as a transaction of its own.
    async fn one(&self, op: Op) -> Result<TxnResponse, Status> {
        self.wrote(self.store().txn(Txn { success: vec![op], ..Txn::default() }).await)
    }

    async fn put(&self, request: wire::PutRequest) -> Result<wire::PutResponse, Status> {
        put_answer(self.one(txn::put(request)?).await?, self)
    }

    async fn delete_range(&self, request: wire::DeleteRangeRequest) -> Result<wire::DeleteRangeResponse, Status> {
        delete_answer(self.one(txn::delete(request)?).await?, self)
    }

    async fn txn(&self, request: wire::TxnRequest) -> Result<wire::TxnResponse, Status> {
        let (txn, forms) = txn::split(request)?;
        Ok(txn_answer(self.wrote(self.store().txn(txn).await)?, &forms, self))
    }

    async fn compact(&self, request: wire::CompactionRequest) -> Result<wire::HeaderOnly, Status> {
        let revision = u64::try_from(request.revision).unwrap_or(0);
        // To the store a second compaction at the same revision is done already; etcd refuses it.
        if revision <= self.store().compacted() {
            return Err(Status::compacted());
        }
        self.store().compact(revision).await?;
        if request.physical {
            self.store().purge().await;
        }
        Ok(wire::HeaderOnly { header: Some(self.header_now()) })
    }
}
