//! gRPC's outcome of a call, with etcd's codes and words for what the store refuses: clients compare both.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::error::{RangeError, StoreError};
use crate::members::MemberError;

/// What may not stand in `grpc-message` as it is.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');
/// Bytes of a message that are sent.
const LONGEST: usize = 8 << 10;

/// gRPC status codes that occur here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    Ok = 0,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// A code with its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Status {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The message as a header has it, and no longer than one may be.
    pub(super) fn escaped(&self) -> String {
        let mut escaped = utf8_percent_encode(&self.message, ESCAPED).to_string();
        escaped.truncate(LONGEST);
        escaped
    }

    pub(super) fn ok() -> Self {
        Self::new(Code::Ok, "")
    }

    pub(super) fn invalid(message: &str) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub(super) fn empty_key() -> Self {
        Self::invalid("etcdserver: key is not provided")
    }

    pub(super) fn too_many_ops() -> Self {
        Self::invalid("etcdserver: too many operations in txn request")
    }

    pub(super) fn compacted() -> Self {
        Self::new(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted")
    }

    fn future() -> Self {
        Self::new(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision")
    }

    pub(super) fn lease_not_found() -> Self {
        Self::new(Code::NotFound, "etcdserver: requested lease not found")
    }

    pub(super) fn stopped() -> Self {
        Self::new(Code::Unavailable, "etcdserver: server stopped")
    }

    pub(super) fn unimplemented(what: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, what)
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DiskFull { .. } => {
                Self::new(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded")
            }
            StoreError::KeySize { size: 0, .. } => Self::empty_key(),
            StoreError::KeySize { .. } => Self::new(Code::InvalidArgument, format!("etcdserver: {error}")),
            StoreError::TooLarge { .. } => Self::invalid("etcdserver: request is too large"),
            StoreError::DuplicateKey => Self::invalid("etcdserver: duplicate key given in txn request"),
            StoreError::KeyNotFound => Self::invalid("etcdserver: key not found"),
            StoreError::TooDeep { .. } => Self::too_many_ops(),
            StoreError::Compacted { .. } => Self::compacted(),
            StoreError::FutureRevision { .. } => Self::future(),
            StoreError::LeaseNotFound(_) => Self::lease_not_found(),
            StoreError::LeaseExists(_) => Self::new(Code::FailedPrecondition, "etcdserver: lease already exists"),
            StoreError::NoLeader => Self::new(Code::Unavailable, "etcdserver: no leader"),
            StoreError::Unknown => Self::new(Code::Unavailable, "etcdserver: request timed out"),
            StoreError::Excluded(_) => Self::new(Code::Unavailable, format!("etcdserver: {error}")),
            StoreError::Failed | StoreError::Closed => Self::stopped(),
        }
    }
}

impl From<MemberError> for Status {
    fn from(error: MemberError) -> Self {
        match error {
            MemberError::NotFound(_) => Self::new(Code::NotFound, "etcdserver: member not found"),
            MemberError::NoLeader => Self::new(Code::Unavailable, "etcdserver: no leader"),
            MemberError::Closed => Self::stopped(),
            MemberError::Behind { .. } => Self::new(
                Code::FailedPrecondition,
                "etcdserver: can only promote a learner member which is in sync with leader",
            ),
            MemberError::NotAVoter(_) => Self::new(Code::FailedPrecondition, "etcdserver: bad leader transferee"),
            MemberError::WouldLoseQuorum { .. } | MemberError::LastVoter(_) => Self::new(
                Code::FailedPrecondition,
                "etcdserver: re-configuration failed due to not enough started members",
            ),
            MemberError::Unknown | MemberError::NotTakenOver(_) => {
                Self::new(Code::Unavailable, "etcdserver: request timed out")
            }
            MemberError::IdInUse { .. }
            | MemberError::NameInUse { .. }
            | MemberError::Incomplete
            | MemberError::Busy => Self::new(Code::FailedPrecondition, format!("etcdserver: {error}")),
        }
    }
}

impl From<RangeError> for Status {
    fn from(error: RangeError) -> Self {
        match error {
            RangeError::Compacted { .. } => Self::compacted(),
            RangeError::Future { .. } => Self::future(),
        }
    }
}
