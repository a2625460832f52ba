//! One operation on one document: guarded by what the document remembers, or plain.

use std::sync::Arc;
use std::time::Duration;

use connect_core::{Rejection, SinkError, Verdict};
use couchbase_core::agent::Agent;
use couchbase_core::memdx::durability_level::DurabilityLevel;
use couchbase_core::memdx::subdoc::{
    LookupInOp, LookupInOpType, MutateInOp, MutateInOpType, SubdocDocFlag, SubdocOpFlag,
};
use couchbase_core::options::crud::{
    AddOptions, DeleteOptions, LookupInOptions, MutateInOptions, ReplaceOptions, TouchOptions, UpsertOptions,
};
use couchbase_core::retry::RetryStrategy;
use tokio::time::timeout;

use crate::config::{CouchbaseConfig, Durability, Format, Guard};
use crate::errors::{self, Failure};
use crate::guard::{ATTRIBUTE, Known, Memory, Source};
use crate::op::{Change, Keyspace, Op};

/// How often a document may turn out to be another one before the core is asked to wait.
const MOST_CONFLICTS: usize = 16;
/// What SDKs tell the format of a document by.
const JSON_FLAGS: u32 = 2 << 24;
const BINARY_FLAGS: u32 = 3 << 24;

/// How documents are written.
pub struct Writer {
    durability: Option<DurabilityLevel>,
    flags: u32,
    preserve_expiry: bool,
    create: bool,
    path: String,
    timeout: Duration,
    retry: Arc<dyn RetryStrategy>,
    memory: Memory,
}

impl Writer {
    pub fn new(config: &CouchbaseConfig, retry: Arc<dyn RetryStrategy>) -> Self {
        let durability = match config.durability {
            Durability::None => None,
            Durability::Majority => Some(DurabilityLevel::MAJORITY),
            Durability::MajorityAndPersistActive => Some(DurabilityLevel::MAJORITY_AND_PERSIST_ACTIVE),
            Durability::PersistToMajority => Some(DurabilityLevel::PERSIST_TO_MAJORITY),
        };
        Self {
            durability,
            flags: if config.format == Format::Json { JSON_FLAGS } else { BINARY_FLAGS },
            preserve_expiry: config.preserve_expiry,
            create: config.create,
            path: config.path.clone().unwrap_or_default(),
            timeout: config.timeout,
            retry,
            memory: Memory::new(config.guard_cache.get()),
        }
    }

    /// Writes unless the document has this record, or a later one of the same partition, already. `None`: written.
    ///
    /// # Errors
    /// Never [`Failure::Absent`] or [`Failure::Conflict`].
    pub async fn guarded(
        &self,
        agent: &Agent,
        op: &Op,
        offset: i64,
        source: &Arc<Source>,
    ) -> Result<Option<Verdict>, Failure> {
        let counts = matches!(op.change, Change::Count(_));
        let mut remembered = self.memory.take(&op.target, source);
        if counts {
            remembered = remembered.filter(|known| !matches!(known, Known::Live { number: None, .. }));
        }
        for _ in 0..MOST_CONFLICTS {
            let known = match remembered.take() {
                Some(known) => known,
                None => self.look_up(agent, op, source, counts).await?,
            };
            if known.offset().is_some_and(|stored| stored >= offset) {
                self.memory.put(&op.target, source, known);
                return Ok(Some(Verdict::Superseded));
            }
            let step = match self.step(op, known)? {
                Step::Write(step) => step,
                Step::Nothing(verdict) => {
                    self.memory.put(&op.target, source, known);
                    return Ok(verdict);
                }
            };
            match self.mutate(agent, op, &step, source, offset).await {
                Ok(cas) => {
                    let offset = Some(offset);
                    let number = step.number;
                    let known =
                        if step.buries { Known::Buried { offset } } else { Known::Live { cas, offset, number } };
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
    async fn look_up(&self, agent: &Agent, op: &Op, source: &Source, body: bool) -> Result<Known, Failure> {
        let entry = LookupInOp::new(LookupInOpType::Get, source.path()).flags(SubdocOpFlag::XATTR_PATH);
        let both = [entry, LookupInOp::new(LookupInOpType::GetDoc, b"")];
        let specs = if body { &both[..] } else { &both[..1] };
        let Keyspaced { scope, collection, id } = keyspaced(op);
        let options = LookupInOptions::new(id, scope, collection, specs)
            .flags(SubdocDocFlag::AccessDeleted)
            .retry_strategy(Arc::clone(&self.retry));
        let found = match self.bounded(agent.lookup_in(options)).await {
            Ok(found) => found,
            Err(Failure::Absent) => return Ok(Known::Absent),
            Err(failure) => return Err(failure),
        };
        let offset = match found.value.first() {
            Some(entry) => match (&entry.value, entry.err.as_ref().map(|error| errors::of_memdx(error))) {
                (Some(value), None) => source.offset(value)?,
                // Nothing at that path: no record of this partition changed the document yet.
                (_, Some(Failure::Rejected(_)) | None) => None,
                (_, Some(failure)) => return Err(failure),
            },
            None => None,
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

    /// What must be sent to make this change to a document of which this is known.
    fn step<'a>(&'a self, op: &'a Op, known: Known) -> Result<Step<'a>, Failure> {
        let (cas, stored) = match known {
            Known::Live { cas, number, .. } => (Some(cas), number),
            Known::Absent | Known::Buried { .. } => (None, None),
        };
        let live = cas.is_some();
        let path = self.path.as_bytes();
        let create_path = if self.create { SubdocOpFlag::MKDIR_P } else { SubdocOpFlag::empty() };
        let at_path = |kind, value: &[u8]| Write {
            kind: Some(kind),
            path,
            value: value.to_vec(),
            flags: create_path,
            ..Write::to(cas)
        };
        let whole = |content: &[u8]| Write {
            kind: Some(MutateInOpType::SetDoc),
            value: content.to_vec(),
            preserves_expiry: self.preserve_expiry,
            ..Write::to(cas)
        };
        let missing = || {
            let problem = "there is no document to change, and CONNECT_COUCHBASE_CREATE=false";
            Failure::Rejected(Rejection::new(problem))
        };
        let write = match &op.change {
            Change::Upsert(content) => whole(content),
            Change::Insert(_) if live => return Ok(Step::Nothing(Some(Verdict::Superseded))),
            Change::Insert(content) => whole(content),
            Change::Replace(_) if !live => {
                return Err(Failure::Rejected(Rejection::new("there is no document that could be replaced")));
            }
            Change::Replace(content) => whole(content),
            Change::Remove if !live => return Ok(Step::Nothing(None)),
            Change::Remove => Write { kind: Some(MutateInOpType::DeleteDoc), buries: true, ..Write::to(cas) },
            Change::Touch if !live => return Ok(Step::Nothing(Some(Verdict::Superseded))),
            Change::Touch => Write::to(cas),
            _ if !live && !self.create => return Err(missing()),
            Change::UpsertPath(content) => at_path(MutateInOpType::DictSet, content),
            Change::Append(content) => at_path(MutateInOpType::ArrayPushLast, content),
            Change::Prepend(content) => at_path(MutateInOpType::ArrayPushFirst, content),
            Change::CountPath(amount) => at_path(MutateInOpType::Counter, amount.to_string().as_bytes()),
            Change::Count(amount) => {
                let sum = stored.unwrap_or(0).checked_add(*amount);
                let sum = sum.ok_or_else(|| Failure::Rejected(Rejection::new("the sum does not fit 64 bits")))?;
                Write { number: Some(sum), preserves_expiry: true, ..whole(sum.to_string().as_bytes()) }
            }
        };
        Ok(Step::Write(write))
    }

    /// Changes document and entry in one step, if the document is still the one that was looked at.
    async fn mutate(
        &self,
        agent: &Agent,
        op: &Op,
        write: &Write<'_>,
        source: &Source,
        offset: i64,
    ) -> Result<u64, Failure> {
        let mark = source.mark(offset);
        let entry = MutateInOp::new(MutateInOpType::DictSet, source.path(), &mark)
            .flags(SubdocOpFlag::XATTR_PATH | SubdocOpFlag::MKDIR_P);
        let mut specs = vec![entry];
        if let Some(kind) = write.kind {
            specs.push(MutateInOp::new(kind, write.path, &write.value).flags(write.flags));
        }
        let Keyspaced { scope, collection, id } = keyspaced(op);
        let mut options = MutateInOptions::new(id, scope, collection, &specs)
            .expiry(op.expiry)
            .durability_level(self.durability)
            .retry_strategy(Arc::clone(&self.retry));
        options = match write.cas {
            Some(cas) => options.cas(cas),
            None => options.flags(SubdocDocFlag::AddDoc),
        };
        if write.cas.is_some() && op.expiry.is_none() && write.preserves_expiry {
            options = options.preserve_expiry(true);
        }
        Ok(self.bounded(agent.mutate_in(options)).await?.cas)
    }

    /// Writes without a look at what is there. `None`: written.
    ///
    /// # Errors
    /// Never [`Failure::Absent`] or [`Failure::Conflict`].
    pub async fn plain(&self, agent: &Agent, op: &Op) -> Result<Option<Verdict>, Failure> {
        let Keyspaced { scope, collection, id } = keyspaced(op);
        let retry = || Arc::clone(&self.retry);
        let preserve = (op.expiry.is_none() && self.preserve_expiry).then_some(true);
        match &op.change {
            Change::Upsert(content) => {
                let options = UpsertOptions::new(id, scope, collection, content)
                    .flags(self.flags)
                    .expiry(op.expiry)
                    .preserve_expiry(preserve)
                    .durability_level(self.durability)
                    .retry_strategy(retry());
                self.bounded(agent.upsert(options)).await.map(|_| None)
            }
            Change::Insert(content) => {
                let options = AddOptions::new(id, scope, collection, content)
                    .flags(self.flags)
                    .expiry(op.expiry)
                    .durability_level(self.durability)
                    .retry_strategy(retry());
                match self.bounded(agent.add(options)).await {
                    Ok(_) => Ok(None),
                    Err(Failure::Conflict) => Ok(Some(Verdict::Superseded)),
                    Err(failure) => Err(failure),
                }
            }
            Change::Replace(content) => {
                let options = ReplaceOptions::new(id, scope, collection, content)
                    .flags(self.flags)
                    .expiry(op.expiry)
                    .preserve_expiry(preserve)
                    .durability_level(self.durability)
                    .retry_strategy(retry());
                match self.bounded(agent.replace(options)).await {
                    Ok(_) => Ok(None),
                    Err(Failure::Absent) => Err(Rejection::new("there is no document that could be replaced").into()),
                    Err(failure) => Err(failure),
                }
            }
            Change::Remove => {
                let options =
                    DeleteOptions::new(id, scope, collection).durability_level(self.durability).retry_strategy(retry());
                match self.bounded(agent.delete(options)).await {
                    Ok(_) | Err(Failure::Absent) => Ok(None),
                    Err(failure) => Err(failure),
                }
            }
            Change::Touch => {
                let options = TouchOptions::new(id, scope, collection, op.expiry.unwrap_or(0)).retry_strategy(retry());
                match self.bounded(agent.touch(options)).await {
                    Ok(_) => Ok(None),
                    Err(Failure::Absent) => Ok(Some(Verdict::Superseded)),
                    Err(failure) => Err(failure),
                }
            }
            Change::UpsertPath(content) => {
                let create_path = if self.create { SubdocOpFlag::MKDIR_P } else { SubdocOpFlag::empty() };
                let specs =
                    [MutateInOp::new(MutateInOpType::DictSet, self.path.as_bytes(), content).flags(create_path)];
                let store = if self.create { SubdocDocFlag::MkDoc } else { SubdocDocFlag::empty() };
                let mut options = MutateInOptions::new(id, scope, collection, &specs)
                    .flags(store)
                    .expiry(op.expiry)
                    .durability_level(self.durability)
                    .retry_strategy(retry());
                if op.expiry.is_none() {
                    options = options.preserve_expiry(true);
                }
                match self.bounded(agent.mutate_in(options)).await {
                    Ok(_) => Ok(None),
                    Err(Failure::Absent) => Err(Rejection::new("there is no document to change").into()),
                    Err(failure) => Err(failure),
                }
            }
            // The settings don't allow these without the guard.
            Change::Append(_) | Change::Prepend(_) | Change::CountPath(_) | Change::Count(_) => {
                Err(Failure::Error(SinkError::fatal("this action needs CONNECT_COUCHBASE_GUARD=on")))
            }
        }
    }

    /// Tries to change a document that does not exist, in the way that records will: the answer tells whether we may.
    ///
    /// # Errors
    /// We may not, or Couchbase can't tell now.
    pub async fn check_rights(&self, agent: &Agent, keyspace: &Keyspace, guard: Guard) -> Result<(), SinkError> {
        const ID: &[u8] = b"connect:check";
        let (scope, collection) = (&*keyspace.scope, &*keyspace.collection);
        let answer = match guard {
            Guard::On => {
                let path = format!("{ATTRIBUTE}.check");
                let specs =
                    [MutateInOp::new(MutateInOpType::Replace, path.as_bytes(), b"0").flags(SubdocOpFlag::XATTR_PATH)];
                let options =
                    MutateInOptions::new(ID, scope, collection, &specs).retry_strategy(Arc::clone(&self.retry));
                self.bounded(agent.mutate_in(options)).await.map(|_| ())
            }
            Guard::Off => {
                // A CAS value that no document has: nothing changes even if there is one.
                let options =
                    ReplaceOptions::new(ID, scope, collection, b"0").cas(1).retry_strategy(Arc::clone(&self.retry));
                self.bounded(agent.replace(options)).await.map(|_| ())
            }
        };
        match answer {
            Err(Failure::Error(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Each call to Couchbase goes through here: the client itself has no time-out.
    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, couchbase_core::error::Error>>,
    ) -> Result<T, Failure> {
        // The client's futures are large, and many of them wait at once: on the heap they cost what they need.
        match timeout(self.timeout, Box::pin(call)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(errors::of(&error)),
            Err(_) => Err(errors::timed_out(self.timeout)),
        }
    }
}

/// What is to be done about a document.
enum Step<'a> {
    Write(Write<'a>),
    /// Nothing: the document is as it should be.
    Nothing(Option<Verdict>),
}

/// A change as it goes over the wire, beside the entry.
struct Write<'a> {
    /// `None` when only the entry and the expiry change.
    kind: Option<MutateInOpType>,
    path: &'a [u8],
    value: Vec<u8>,
    flags: SubdocOpFlag,
    /// `None` when there must be no document.
    cas: Option<u64>,
    preserves_expiry: bool,
    buries: bool,
    /// What the document is afterwards, where it is a number.
    number: Option<i64>,
}

impl Write<'_> {
    fn to(cas: Option<u64>) -> Self {
        Self {
            kind: None,
            path: b"",
            value: Vec::new(),
            flags: SubdocOpFlag::empty(),
            cas,
            preserves_expiry: true,
            buries: false,
            number: None,
        }
    }
}

struct Keyspaced<'a> {
    scope: &'a str,
    collection: &'a str,
    id: &'a [u8],
}

fn keyspaced(op: &Op) -> Keyspaced<'_> {
    Keyspaced { scope: &op.keyspace.scope, collection: &op.keyspace.collection, id: &op.id }
}

fn number(body: &[u8]) -> Result<i64, Failure> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let number = text.trim().parse();
    number.map_err(|_| Failure::Rejected(Rejection::new("the document is no whole number of 64 bits")))
}
