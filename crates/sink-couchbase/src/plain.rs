//! A write without the guard: at least once, and a late request may bring an older value back.

use std::pin::pin;
use std::sync::Arc;

use connect_core::{Rejection, SinkError, Verdict};
use couchbase_core::agent::Agent;
use couchbase_core::memdx::subdoc::{MutateInOp, MutateInOpType, SubdocDocFlag};
use couchbase_core::options::crud::{
    AddOptions, DeleteOptions, MutateInOptions, ReplaceOptions, TouchOptions, UpsertOptions,
};

use crate::config::Create;
use crate::errors::Failure;
use crate::expiry;
use crate::op::{Change, Op};
use crate::step::MISSING;
use crate::write::{Alarm, Place, Writer};

impl Writer {
    /// Writes without a look at what is there. `None`: written.
    ///
    /// # Errors
    /// Never [`Failure::Absent`] or [`Failure::Conflict`].
    pub(crate) async fn plain(&self, agent: &Agent, op: &Op, alarm: &mut Alarm) -> Result<Option<Verdict>, Failure> {
        let Place { scope, collection, id } = Place::of(op);
        let retry = || Arc::clone(&self.retry);
        let expiry = expiry::seconds(op.ends);
        let preserve = (expiry.is_none() && self.preserve_expiry).then_some(true);
        match &op.change {
            Change::Upsert(content) => {
                let options = UpsertOptions::new(id, scope, collection, content)
                    .flags(self.flags)
                    .expiry(expiry)
                    .preserve_expiry(preserve)
                    .durability_level(self.durability)
                    .retry_strategy(retry());
                alarm.bounded(pin!(agent.upsert(options))).await.map(|_| None)
            }
            Change::Insert(content) => {
                let options = AddOptions::new(id, scope, collection, content)
                    .flags(self.flags)
                    .expiry(expiry)
                    .durability_level(self.durability)
                    .retry_strategy(retry());
                match alarm.bounded(pin!(agent.add(options))).await {
                    Ok(_) => Ok(None),
                    Err(Failure::Conflict) => Ok(Some(Verdict::Superseded)),
                    Err(failure) => Err(failure),
                }
            }
            Change::Replace(content) => {
                let options = ReplaceOptions::new(id, scope, collection, content)
                    .flags(self.flags)
                    .expiry(expiry)
                    .preserve_expiry(preserve)
                    .durability_level(self.durability)
                    .retry_strategy(retry());
                match alarm.bounded(pin!(agent.replace(options))).await {
                    Ok(_) => Ok(None),
                    Err(Failure::Absent) => Err(Rejection::new("there is no document that could be replaced").into()),
                    Err(failure) => Err(failure),
                }
            }
            Change::Remove => {
                let options =
                    DeleteOptions::new(id, scope, collection).durability_level(self.durability).retry_strategy(retry());
                match alarm.bounded(pin!(agent.delete(options))).await {
                    Ok(_) | Err(Failure::Absent) => Ok(None),
                    Err(failure) => Err(failure),
                }
            }
            Change::Touch => {
                let options = TouchOptions::new(id, scope, collection, expiry.unwrap_or(0)).retry_strategy(retry());
                match alarm.bounded(pin!(agent.touch(options))).await {
                    Ok(_) => Ok(None),
                    Err(Failure::Absent) => Ok(Some(Verdict::Superseded)),
                    Err(failure) => Err(failure),
                }
            }
            Change::UpsertPath(content) => {
                let specs =
                    [MutateInOp::new(MutateInOpType::DictSet, self.path.as_bytes(), content).flags(self.path_flags())];
                let makes = self.create == Create::Document;
                let store = if makes { SubdocDocFlag::MkDoc } else { SubdocDocFlag::empty() };
                let mut options = MutateInOptions::new(id, scope, collection, &specs)
                    .flags(store)
                    .expiry(expiry)
                    .durability_level(self.durability)
                    .retry_strategy(retry());
                if expiry.is_none() {
                    options = options.preserve_expiry(true);
                }
                match alarm.bounded(pin!(agent.mutate_in(options))).await {
                    Ok(_) => Ok(None),
                    Err(Failure::Absent) => Err(Rejection::new(MISSING).into()),
                    Err(failure) => Err(failure),
                }
            }
            // The settings don't allow these without the guard.
            Change::Append(_) | Change::Prepend(_) | Change::CountPath(_) | Change::Count(_) => {
                Err(Failure::Error(SinkError::fatal("this action needs CONNECT_COUCHBASE_GUARD=on")))
            }
        }
    }
}
