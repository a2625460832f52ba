//! A write that counts once: the document is changed together with its entry in the attribute, if it is still the one that
//! was looked at.

use std::pin::pin;
use std::sync::Arc;

use connect_core::{Rejection, SinkError, Verdict};
use couchbase_core::agent::Agent;
use couchbase_core::memdx::subdoc::{
    LookupInOp, LookupInOpType, MutateInOp, MutateInOpType, SubdocDocFlag, SubdocOpFlag,
};
use couchbase_core::options::crud::{LookupInOptions, MutateInOptions};
use couchbase_core::results::kv::SubDocResult;

use crate::errors::{self, Failure};
use crate::expiry;
use crate::guard::{self, Known, Source};
use crate::op::{Change, Op};
use crate::step::{Step, Write};
use crate::write::{Alarm, Place, Writer};

/// How often a document may turn out to be another one before the core is asked to wait.
const MOST_CONFLICTS: usize = 16;

impl Writer {
    /// Writes unless the document has this record, or a later one of the same partition, already. `None`: written.
    ///
    /// # Errors
    /// Never [`Failure::Absent`] or [`Failure::Conflict`].
    pub(crate) async fn guarded(
        &self,
        agent: &Agent,
        op: &Op,
        offset: i64,
        source: &Arc<Source>,
        alarm: &mut Alarm,
    ) -> Result<Option<Verdict>, Failure> {
        let counts = matches!(op.change, Change::Count(_));
        let mut remembered = self.memory.take(&op.target, source);
        if counts {
            remembered = remembered.filter(|known| !matches!(known, Known::Live { number: None, .. }));
        }
        for _ in 0..MOST_CONFLICTS {
            let (known, fresh) = match remembered.take() {
                Some(known) => (known, false),
                None => (self.look_up(agent, op, source, counts, alarm).await?, true),
            };
            if known.offset().is_some_and(|stored| stored >= offset) {
                self.memory.put(&op.target, source, known);
                return Ok(Some(Verdict::Superseded));
            }
            let step = self.step(op, known);
            // By what is remembered there is nothing to write, or no document. No CAS value tells whether somebody else changed that,
            // and one who was taken for dead would bring back what its successor made and removed: look.
            if !fresh && !matches!(step, Ok(Step::Write(Write { cas: Some(_), .. }))) {
                continue;
            }
            let write = match step {
                Ok(Step::Write(write)) => write,
                Ok(Step::Nothing(verdict)) => {
                    self.memory.put(&op.target, source, known);
                    return Ok(verdict);
                }
                Err(failure) => return Err(failure),
            };
            match self.mutate(agent, op, &write, source, offset, alarm).await {
                Ok(cas) => {
                    let offset = Some(offset);
                    let number = write.number;
                    let known =
                        if write.buries { Known::Buried { offset } } else { Known::Live { cas, offset, number } };
                    self.memory.put(&op.target, source, known);
                    return Ok(None);
                }
                // Somebody wrote in between: another client, another partition, or a late request of our own.
                Err(Failure::Absent | Failure::Conflict) => {}
                Err(failure) => return Err(failure),
            }
        }
        let message = "a document is changed by others faster than it can be written";
        Err(Failure::Error(SinkError::transient("contention", message)))
    }

    /// What the document remembers.
    async fn look_up(
        &self,
        agent: &Agent,
        op: &Op,
        source: &Source,
        body: bool,
        alarm: &mut Alarm,
    ) -> Result<Known, Failure> {
        let entry = LookupInOp::new(LookupInOpType::Get, source.path()).flags(SubdocOpFlag::XATTR_PATH);
        let both = [entry, LookupInOp::new(LookupInOpType::GetDoc, b"")];
        let specs = if body { &both[..] } else { &both[..1] };
        let Place { scope, collection, id } = Place::of(op);
        let options = LookupInOptions::new(id, scope, collection, specs)
            .flags(SubdocDocFlag::AccessDeleted)
            .retry_strategy(Arc::clone(&self.retry));
        let found = match alarm.bounded(pin!(agent.lookup_in(options))).await {
            Ok(found) => found,
            Err(Failure::Absent) => return Ok(Known::Absent),
            Err(failure) => return Err(failure),
        };
        let offset = match found.value.first() {
            Some(SubDocResult { value: Some(entry), err: None }) => source.offset(entry)?,
            // No record of this partition changed the document yet.
            Some(SubDocResult { err: Some(error), .. }) if errors::nothing_at_path(error) => None,
            Some(SubDocResult { err: Some(error), .. }) => match errors::of_memdx(error) {
                Failure::Rejected(_) => return Err(guard::foreign().into()),
                failure => return Err(failure),
            },
            _ => None,
        };
        if found.doc_is_deleted {
            return Ok(Known::Buried { offset });
        }
        let number = match found.value.get(1) {
            Some(body) => Some(number(body.value.as_deref().unwrap_or_default())?),
            None => None,
        };
        Ok(Known::Live { cas: found.cas, offset, number })
    }

    /// Changes document and entry in one step, if the document is still the one that was looked at.
    async fn mutate(
        &self,
        agent: &Agent,
        op: &Op,
        write: &Write<'_>,
        source: &Source,
        offset: i64,
        alarm: &mut Alarm,
    ) -> Result<u64, Failure> {
        let mark = source.mark(offset);
        let entry = MutateInOp::new(MutateInOpType::DictSet, source.path(), &mark)
            .flags(SubdocOpFlag::XATTR_PATH | SubdocOpFlag::MKDIR_P);
        let mut specs = vec![entry];
        if let Some(kind) = write.kind {
            specs.push(MutateInOp::new(kind, write.path, &write.value).flags(write.flags));
        }
        let Place { scope, collection, id } = Place::of(op);
        let expiry = expiry::seconds(op.ends);
        let mut options = MutateInOptions::new(id, scope, collection, &specs)
            .expiry(expiry)
            .durability_level(self.durability)
            .retry_strategy(Arc::clone(&self.retry));
        options = match write.cas {
            Some(cas) => options.cas(cas),
            None => options.flags(SubdocDocFlag::AddDoc),
        };
        if write.cas.is_some() && expiry.is_none() && write.preserves_expiry {
            options = options.preserve_expiry(true);
        }
        Ok(alarm.bounded(pin!(agent.mutate_in(options))).await?.cas)
    }
}

fn number(body: &[u8]) -> Result<i64, Failure> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let number = text.trim().parse();
    number.map_err(|_| Failure::Rejected(Rejection::new("the document is no whole number of 64 bits")))
}
