//! The KV service: ranges, puts, deletions, transactions, compaction.

use crate::types::{Op, OpResult, Txn, TxnResponse};

use super::serve::Call;
use super::status::{Code, Status};
use super::{Endpoint, range, txn, wire};

impl Endpoint {
    pub(super) async fn keys(&self, method: &str, call: Call) {
        match method {
            "Range" => call.in_turn(range::may_be_large, async |request| self.range(request).await).await,
            "Put" => call.unary(async |request| self.put(request).await).await,
            "DeleteRange" => {
                let large = |request: &wire::DeleteRangeRequest| request.prev_kv && !request.range_end.is_empty();
                call.in_turn(large, async |request| self.delete_range(request).await).await;
            }
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
    async fn one(&self, op: Op) -> Result<(OpResult, wire::ResponseHeader), Status> {
        let TxnResponse { revision, mut results, .. } =
            self.wrote(self.store().txn(Txn { success: vec![op], ..Txn::default() }).await)?;
        let lost = || Status::new(Code::Internal, "an operation without a result");
        Ok((results.pop().ok_or_else(lost)?, self.header(revision)))
    }

    async fn put(&self, request: wire::PutRequest) -> Result<wire::PutResponse, Status> {
        let (result, header) = self.one(txn::put(request)?).await?;
        let prev = if let OpResult::Put { prev } = result { prev } else { None };
        Ok(txn::put_response(prev, header))
    }

    async fn delete_range(&self, request: wire::DeleteRangeRequest) -> Result<wire::DeleteRangeResponse, Status> {
        let (result, header) = self.one(txn::delete(request)?).await?;
        let (deleted, prev) =
            if let OpResult::Delete { deleted, prev } = result { (deleted, prev) } else { (0, Vec::new()) };
        Ok(txn::delete_response(deleted, prev, header))
    }

    async fn txn(&self, request: wire::TxnRequest) -> Result<wire::TxnResponse, Status> {
        let (txn, forms) = txn::split(request)?;
        let response = self.wrote(self.store().txn(txn).await)?;
        let header = self.header(response.revision);
        Ok(forms.write(response, header))
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
