//! What must be sent to make a change to a document of which this much is known. No I/O.

use std::borrow::Cow;

use connect_core::{Rejection, Verdict};
use couchbase_core::memdx::subdoc::{MutateInOpType, SubdocOpFlag};

use crate::config::Create;
use crate::errors::Failure;
use crate::guard::Known;
use crate::op::{Change, Op};
use crate::write::Writer;

/// Why a record is rejected.
pub(crate) const MISSING: &str = "there is no document to change, and CONNECT_COUCHBASE_CREATE does not make one";

/// What is to be done about a document.
pub(crate) enum Step<'a> {
    Write(Write<'a>),
    /// Nothing: the document is as it should be.
    Nothing(Option<Verdict>),
}

/// A change as it goes over the wire, beside the entry.
pub(crate) struct Write<'a> {
    /// `None` when only the entry and the expiry change.
    pub kind: Option<MutateInOpType>,
    pub path: &'a [u8],
    pub value: Cow<'a, [u8]>,
    pub flags: SubdocOpFlag,
    /// `None` when there must be no document.
    pub cas: Option<u64>,
    pub preserves_expiry: bool,
    /// Afterwards there is a tombstone.
    pub buries: bool,
    /// What the document is afterwards, where it is a number.
    pub number: Option<i64>,
}

impl Write<'_> {
    fn to(cas: Option<u64>) -> Self {
        Self {
            kind: None,
            path: b"",
            value: Cow::Borrowed(&[]),
            flags: SubdocOpFlag::empty(),
            cas,
            preserves_expiry: true,
            buries: false,
            number: None,
        }
    }
}

impl Writer {
    /// What must be sent to make this change to a document of which this is known.
    pub(crate) fn step<'a>(&'a self, op: &'a Op, known: Known) -> Result<Step<'a>, Failure> {
        let (cas, stored) = match known {
            Known::Live { cas, number, .. } => (Some(cas), number),
            Known::Absent | Known::Buried { .. } => (None, None),
        };
        let live = cas.is_some();
        let path = self.path.as_bytes();
        let at_path = |kind, value: Cow<'a, [u8]>| Write {
            kind: Some(kind),
            path,
            value,
            flags: self.path_flags(),
            ..Write::to(cas)
        };
        let whole = |value: Cow<'a, [u8]>| Write {
            kind: Some(MutateInOpType::SetDoc),
            value,
            preserves_expiry: self.preserve_expiry,
            ..Write::to(cas)
        };
        let write = match &op.change {
            Change::Upsert(content) => whole(Cow::Borrowed(content)),
            Change::Insert(_) if live => return Ok(Step::Nothing(Some(Verdict::Superseded))),
            Change::Insert(content) => whole(Cow::Borrowed(content)),
            Change::Replace(_) if !live => {
                return Err(Failure::Rejected(Rejection::new("there is no document that could be replaced")));
            }
            Change::Replace(content) => whole(Cow::Borrowed(content)),
            Change::Remove if !live => return Ok(Step::Nothing(None)),
            Change::Remove => Write { kind: Some(MutateInOpType::DeleteDoc), buries: true, ..Write::to(cas) },
            Change::Touch if !live => return Ok(Step::Nothing(Some(Verdict::Superseded))),
            Change::Touch => Write::to(cas),
            _ if !live && self.create != Create::Document => return Err(Rejection::new(MISSING).into()),
            Change::UpsertPath(content) => at_path(MutateInOpType::DictSet, Cow::Borrowed(content)),
            Change::Append(content) => at_path(MutateInOpType::ArrayPushLast, Cow::Borrowed(content)),
            Change::Prepend(content) => at_path(MutateInOpType::ArrayPushFirst, Cow::Borrowed(content)),
            Change::CountPath(amount) => at_path(MutateInOpType::Counter, digits(*amount)),
            Change::Count(amount) => {
                let sum = stored.unwrap_or(0).checked_add(*amount);
                let sum = sum.ok_or_else(|| Failure::Rejected(Rejection::new("the sum does not fit 64 bits")))?;
                Write { number: Some(sum), preserves_expiry: true, ..whole(digits(sum)) }
            }
        };
        Ok(Step::Write(write))
    }
}

fn digits(number: i64) -> Cow<'static, [u8]> {
    Cow::Owned(number.to_string().into_bytes())
}
