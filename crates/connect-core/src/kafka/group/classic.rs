//! The classic group protocol: members join, one of them assigns, and each gives up what goes to another before it joins again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::alongside::{Heartbeats, alongside};
use super::member::{End, Member, Order, RETRY, Shared, TOPICS_SOON};
use super::{protocol, sticky};
use crate::kafka::coordinator::text;
use crate::kafka::error::KafkaError;
use crate::kafka::wire::Purpose;
use crate::kafka::wire::cluster::REQUEST_TIMEOUT;
use crate::record::TopicPartition;

const JOIN_GROUP: i16 = 9;
const SYNC_GROUP: i16 = 5;
const HEARTBEAT: i16 = 4;
const LEAVE_GROUP: i16 = 5;
const PROTOCOL_TYPE: &str = "consumer";
const ASSIGNOR: &str = "cooperative-sticky";

type Partitions = BTreeMap<String, BTreeSet<TopicPartition>>;

struct Classic<'a> {
    member: &'a mut Member,
    /// The generation in which we got what is ours: the assignor believes the latest claim.
    generation: i32,
    /// The topics that we said we read.
    reads: BTreeSet<String>,
    /// What the leader's assignment was made from; `None` when another leads.
    assigned_from: Option<Partitions>,
    topics_due: Instant,
}

/// What ends a stay in the group's current generation.
enum Next {
    Join,
    Leave(Option<oneshot::Sender<()>>),
}

enum Beat {
    Fine,
    Rebalance,
    Lost(ResponseError),
}

pub(super) async fn run(member: &mut Member, orders: &mut mpsc::Receiver<Order>) -> Result<End, KafkaError> {
    let mut classic =
        Classic { member, generation: -1, reads: BTreeSet::new(), assigned_from: None, topics_due: Instant::now() };
    loop {
        let next = tokio::select! {
            biased;
            done = goodbye(orders) => Next::Leave(done),
            joined = classic.join() => {
                let target = joined?;
                classic.member.aim(&target)?;
                Next::Join
            }
        };
        let next = match next {
            Next::Join => classic.stay(orders).await?,
            leave @ Next::Leave(_) => leave,
        };
        if let Next::Leave(done) = next {
            classic.leave().await;
            if let Some(done) = done {
                let _ = done.send(());
            }
            return Ok(End::Left);
        }
    }
}

/// Waits to be asked to leave. While we join nothing is being given up, so what is released then was lost before.
async fn goodbye(orders: &mut mpsc::Receiver<Order>) -> Option<oneshot::Sender<()>> {
    loop {
        match orders.recv().await {
            Some(Order::Released(_)) => {}
            Some(Order::Leave(done)) => return Some(done),
            None => return None,
        }
    }
}

impl Classic<'_> {
    /// Joins, however long it takes; says what is to be ours.
    async fn join(&mut self) -> Result<BTreeSet<TopicPartition>, KafkaError> {
        loop {
            match self.try_join().await {
                Ok(Some(target)) => return Ok(target),
                Ok(None) => {}
                Err(KafkaError::Transient { message, .. }) => {
                    warn!("{message}; trying again in {RETRY:?}");
                    if self.member.is_forgotten() {
                        self.lose("the coordinator did not hear us for too long")?;
                    }
                    sleep(RETRY).await;
                }
                Err(fatal) => return Err(fatal),
            }
        }
    }

    /// One round; `None` when it must begin anew.
    async fn try_join(&mut self) -> Result<Option<BTreeSet<TopicPartition>>, KafkaError> {
        (self.reads, _) = self.look_up_names().await?;
        let claim = sticky::Member {
            topics: self.reads.clone(),
            owned: self.member.owned.clone(),
            generation: self.generation,
        };
        let config = self.member.cluster.config();
        let metadata = protocol::encode_subscription(&claim, config.rack.as_deref()).map_err(KafkaError::fatal)?;
        let mut joined = self.ask_to_join(metadata.clone()).await?;
        if joined.error_code == ResponseError::MemberIdRequired.code() {
            // At once, and not after another look-up: the coordinator keeps the id for no longer than a session.
            self.member.shared.set_identity(joined.member_id.to_string(), -1);
            joined = self.ask_to_join(metadata).await?;
        }
        let coordinator = &self.member.shared.coordinator;
        match ResponseError::try_from_code(joined.error_code) {
            None => {}
            Some(ResponseError::UnknownMemberId) => {
                self.lose("the coordinator does not know us any more")?;
                return Ok(None);
            }
            Some(error) => return Err(coordinator.refused("join", error).await),
        }
        self.member.shared.hear();
        self.member.shared.set_identity(joined.member_id.to_string(), joined.generation_id);
        self.sync(joined).await
    }

    async fn ask_to_join(&self, metadata: Bytes) -> Result<JoinGroupResponse, KafkaError> {
        let config = self.member.cluster.config();
        let (identity, coordinator) = (self.member.shared.identity(), &self.member.shared.coordinator);
        let offered =
            JoinGroupRequestProtocol::default().with_name(StrBytes::from_static_str(ASSIGNOR)).with_metadata(metadata);
        let request = JoinGroupRequest::default()
            .with_group_id(coordinator.group_id())
            .with_session_timeout_ms(config.session_timeout.as_millis() as i32)
            .with_rebalance_timeout_ms(config.rebalance_timeout.as_millis() as i32)
            .with_member_id(text(&identity.member))
            .with_group_instance_id(identity.instance.as_deref().map(text))
            .with_protocol_type(StrBytes::from_static_str(PROTOCOL_TYPE))
            .with_protocols(vec![offered]);
        // The coordinator answers when all members have joined, or their time is up.
        let limit = config.rebalance_timeout + REQUEST_TIMEOUT;
        coordinator.call(Purpose::Join, &request, JOIN_GROUP, limit).await
    }

    async fn sync(&mut self, joined: JoinGroupResponse) -> Result<Option<BTreeSet<TopicPartition>>, KafkaError> {
        let leads = joined.leader == joined.member_id;
        let mut assignments = Vec::new();
        self.assigned_from = None;
        if leads && !joined.skip_assignment {
            for (name, share) in self.assign(&joined).await? {
                let assignment = protocol::encode_assignment(&share).map_err(KafkaError::fatal)?;
                assignments.push(
                    SyncGroupRequestAssignment::default().with_member_id(text(&name)).with_assignment(assignment),
                );
            }
        }
        let (identity, coordinator) = (self.member.shared.identity(), &self.member.shared.coordinator);
        let request = SyncGroupRequest::default()
            .with_group_id(coordinator.group_id())
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id.clone())
            .with_group_instance_id(identity.instance.as_deref().map(text))
            .with_protocol_type(Some(StrBytes::from_static_str(PROTOCOL_TYPE)))
            .with_protocol_name(joined.protocol_name.clone())
            .with_assignments(assignments);
        let limit = self.member.cluster.config().rebalance_timeout + REQUEST_TIMEOUT;
        let synced = coordinator.call(Purpose::Join, &request, SYNC_GROUP, limit).await?;
        match ResponseError::try_from_code(synced.error_code) {
            None => {}
            Some(ResponseError::RebalanceInProgress | ResponseError::IllegalGeneration) => return Ok(None),
            Some(ResponseError::UnknownMemberId) => {
                self.lose("the coordinator does not know us any more")?;
                return Ok(None);
            }
            Some(error) => return Err(coordinator.refused("get our assignment", error).await),
        }
        self.member.shared.hear();
        self.generation = joined.generation_id;
        let target = protocol::decode_assignment(synced.assignment).map_err(|error| {
            KafkaError::transient("group", format!("the group's leader sent an unreadable assignment: {error}"))
        })?;
        info!(
            group = coordinator.group(),
            generation = joined.generation_id,
            leads,
            partitions = target.len(),
            "joined the group"
        );
        Ok(Some(target))
    }

    /// As the leader: who gets what.
    async fn assign(
        &mut self,
        joined: &JoinGroupResponse,
    ) -> Result<BTreeMap<String, BTreeSet<TopicPartition>>, KafkaError> {
        let mut members = BTreeMap::new();
        for member in &joined.members {
            let said = protocol::decode_subscription(member.metadata.clone()).map_err(|error| {
                KafkaError::transient("group", format!("a member of the group is not understood: {error}"))
            })?;
            members.insert(member.member_id.to_string(), said);
        }
        let names: BTreeSet<String> = members.values().flat_map(|member| member.topics.iter().cloned()).collect();
        let partitions = self.partitions(&names).await?;
        let assigned = sticky::assign(&members, &partitions);
        self.assigned_from = Some(partitions);
        Ok(assigned)
    }

    async fn partitions(&self, names: &BTreeSet<String>) -> Result<Partitions, KafkaError> {
        let names: Vec<Arc<str>> = names.iter().map(|name| name.as_str().into()).collect();
        let look = self.member.cluster.topics(Some(&names));
        let topics = alongside(look, &mut self.looking_up()).await?;
        Ok(topics.into_iter().map(|topic| (topic.name.to_string(), topic.all().into_iter().collect())).collect())
    }

    fn looking_up(&self) -> LookingUp {
        LookingUp(Arc::clone(&self.member.shared))
    }

    /// The topics that we read: the listed ones whether they exist or not, those of a pattern as they are now. What was made anew
    /// is ours no more; says whether there was any.
    async fn look_up_names(&mut self) -> Result<(BTreeSet<String>, bool), KafkaError> {
        let look = self.member.subscription.look_up(&self.member.cluster);
        let found = alongside(look, &mut self.looking_up()).await?;
        let missing = self.member.tell_missing(&found);
        self.topics_due =
            Instant::now() + if missing { TOPICS_SOON } else { self.member.cluster.config().topics_refresh };
        let listed = self.member.subscription.names().iter().map(ToString::to_string);
        let names = listed.chain(found.keys().map(ToString::to_string)).collect();
        Ok((names, self.member.lose_made_anew(&found)?))
    }

    /// Whether what the last round was made from is no longer so.
    async fn topics_changed(&mut self) -> Result<bool, KafkaError> {
        let (names, anew) = self.look_up_names().await?;
        if anew || names != self.reads {
            return Ok(true);
        }
        let Some(assigned_from) = &self.assigned_from else { return Ok(false) };
        let mut names: BTreeSet<String> = assigned_from.keys().cloned().collect();
        names.extend(self.reads.iter().cloned());
        Ok(self.partitions(&names).await? != *assigned_from)
    }

    /// Keeps the membership alive until the group must be joined again.
    async fn stay(&mut self, orders: &mut mpsc::Receiver<Order>) -> Result<Next, KafkaError> {
        let interval = interval(&self.member.shared);
        let mut beat_due = Instant::now() + interval;
        let mut retry_due = Instant::now();
        let mut join = false;
        loop {
            if self.member.is_arriving() && retry_due <= Instant::now() {
                retry_due = Instant::now() + RETRY;
                let mut looking_up = self.looking_up();
                let taken = alongside(self.member.take_up(), &mut looking_up).await;
                self.soften(taken)?;
            }
            // What goes to others is given up before it is asked for again; the coordinator waits for that.
            if join && self.member.releasing.is_empty() {
                return Ok(Next::Join);
            }
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Released(partitions)) => {
                        let gives_up = !self.member.releasing.is_empty();
                        self.member.released(&partitions);
                        join |= gives_up && self.member.releasing.is_empty();
                    }
                    Some(Order::Leave(done)) => return Ok(Next::Leave(Some(done))),
                    None => return Ok(Next::Leave(None)),
                },
                () = sleep_until(beat_due) => {
                    let member = self.member.shared.identity().member;
                    match heartbeat(&self.member.shared).await {
                        Ok(Beat::Fine) => {}
                        Ok(Beat::Rebalance) => join = true,
                        Ok(Beat::Lost(error)) => {
                            self.lose(&format!("{error:?}"))?;
                            if error == ResponseError::IllegalGeneration {
                                // The member is known all the same: another id would leave it behind for the others to wait for.
                                self.member.shared.set_identity(member, -1);
                            }
                            return Ok(Next::Join);
                        }
                        Err(error) => {
                            self.soften(Err(error))?;
                            if self.member.is_forgotten() {
                                self.lose("the coordinator did not hear us for too long")?;
                                return Ok(Next::Join);
                            }
                        }
                    }
                    beat_due = Instant::now() + interval;
                }
                () = sleep_until(self.topics_due) => {
                    match self.topics_changed().await {
                        Ok(changed) => join |= changed,
                        Err(error) => {
                            self.topics_due = Instant::now() + TOPICS_SOON;
                            self.soften(Err(error))?;
                        }
                    }
                }
                () = sleep_until(retry_due), if self.member.is_arriving() => {}
            }
        }
    }

    /// What may pass is logged, and tried again by the loop.
    fn soften(&self, result: Result<(), KafkaError>) -> Result<(), KafkaError> {
        match result {
            Err(KafkaError::Transient { message, .. }) => {
                warn!("{message}; trying again");
                Ok(())
            }
            other => other,
        }
    }

    /// All is lost; we begin anew as somebody else.
    fn lose(&mut self, why: &str) -> Result<(), KafkaError> {
        self.generation = -1;
        self.member.shared.set_identity(String::new(), -1);
        self.member.shared.hear();
        self.member.lose_all(why)
    }

    /// Says goodbye, so that others need not wait for the session's end. One with a name of its own comes back soon.
    async fn leave(&mut self) {
        let (identity, coordinator) = (self.member.shared.identity(), &self.member.shared.coordinator);
        if identity.instance.is_some() || identity.member.is_empty() {
            return;
        }
        let leaving = MemberIdentity::default().with_member_id(text(&identity.member));
        let request = LeaveGroupRequest::default().with_group_id(coordinator.group_id()).with_members(vec![leaving]);
        if let Err(error) = coordinator.call(Purpose::Coordinate, &request, LEAVE_GROUP, REQUEST_TIMEOUT).await {
            debug!("not left properly: {error}");
        }
    }
}

/// How often the coordinator is to hear from us.
fn interval(shared: &Shared) -> Duration {
    (shared.coordinator.cluster().config().session_timeout / 3).min(Duration::from_secs(3))
}

async fn heartbeat(shared: &Shared) -> Result<Beat, KafkaError> {
    let (identity, coordinator) = (shared.identity(), &shared.coordinator);
    let request = HeartbeatRequest::default()
        .with_group_id(coordinator.group_id())
        .with_generation_id(identity.generation)
        .with_member_id(text(&identity.member))
        .with_group_instance_id(identity.instance.as_deref().map(text));
    let limit = coordinator.cluster().config().session_timeout / 3;
    let answer = coordinator.call(Purpose::Coordinate, &request, HEARTBEAT, limit).await?;
    let beat = match ResponseError::try_from_code(answer.error_code) {
        None => Beat::Fine,
        Some(ResponseError::RebalanceInProgress) => Beat::Rebalance,
        Some(error @ (ResponseError::UnknownMemberId | ResponseError::IllegalGeneration)) => {
            return Ok(Beat::Lost(error));
        }
        Some(error) => return Err(coordinator.refused("heartbeat", error).await),
    };
    shared.hear();
    Ok(beat)
}

/// A member that looks something up.
struct LookingUp(Arc<Shared>);

impl Heartbeats for LookingUp {
    fn interval(&self) -> Duration {
        interval(&self.0)
    }

    async fn beat(&mut self) {
        if self.0.identity().generation >= 0 {
            let _ = heartbeat(&self.0).await;
        }
    }
}
