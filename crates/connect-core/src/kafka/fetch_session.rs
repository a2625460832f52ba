//! A fetch session (KIP-227): the broker remembers what a connection waits for, so that a request names only what has
//! changed since the last one, and an answer only the partitions that have something to say.

use std::collections::HashMap;

use kafka_protocol::error::ResponseError;

use super::fetch::{Answer, Question, Reply};
use crate::record::TopicPartition;

/// Where a request stands within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Given by the broker; 0 for none.
    pub session: i32,
    /// Counts the requests of a session; 0 asks for a new one in the place of `session`.
    pub epoch: i32,
}

impl Place {
    /// A request by itself.
    const NONE: Self = Self { session: 0, epoch: -1 };
    /// Asks for a session.
    const FIRST: Self = Self { session: 0, epoch: 0 };
}

/// What the broker has been told about a partition, and what it has last said.
#[derive(Debug)]
struct Known {
    offset: i64,
    leader_epoch: i32,
    last: Option<Answer>,
}

/// What one side knows of the other. It belongs to one connection, is made anew with it, and the broker may end it at any time.
#[derive(Debug)]
pub(super) struct FetchSession {
    place: Place,
    known: HashMap<TopicPartition, Known>,
}

/// What a request has to say: the rest the broker knows already.
#[derive(Debug)]
pub(super) struct Changes<'a> {
    pub place: Place,
    pub questions: Vec<&'a Question>,
    pub forgotten: Vec<TopicPartition>,
}

impl<'a> Changes<'a> {
    /// A request about one partition, in no session.
    pub(super) fn only(question: &'a Question) -> Self {
        Self { place: Place::NONE, questions: vec![question], forgotten: Vec::new() }
    }
}

impl Default for FetchSession {
    fn default() -> Self {
        Self { place: Place::FIRST, known: HashMap::new() }
    }
}

impl FetchSession {
    /// What to tell the broker so that it looks at exactly these partitions.
    pub(super) fn changes<'a, Q: AsRef<Question>>(&mut self, wanted: &'a HashMap<TopicPartition, Q>) -> Changes<'a> {
        if self.place.epoch == 0 {
            self.known.clear();
        }
        let mut forgotten = Vec::new();
        self.known.retain(|partition, _| {
            let keep = wanted.contains_key(partition);
            if !keep {
                forgotten.push(partition.clone());
            }
            keep
        });
        let mut questions = Vec::new();
        for (partition, question) in wanted {
            let question = question.as_ref();
            let (offset, leader_epoch) = (question.offset, question.leader.epoch);
            match self.known.get_mut(partition) {
                Some(known) if (known.offset, known.leader_epoch) == (offset, leader_epoch) => continue,
                Some(known) => (known.offset, known.leader_epoch) = (offset, leader_epoch),
                None => {
                    self.known.insert(partition.clone(), Known { offset, leader_epoch, last: None });
                }
            }
            questions.push(question);
        }
        // In order, so that a topic is named once.
        questions.sort_unstable_by(|a, b| a.partition.cmp(&b.partition));
        forgotten.sort_unstable();
        Changes { place: self.place, questions, forgotten }
    }

    /// The broker answered the request of that place: the next one goes on from there.
    pub(super) fn answered(&mut self, place: Place, reply: &Reply) {
        self.place = match reply.session {
            // The broker has no room for another session: each request asks for one again, and names all partitions.
            0 => Place::FIRST,
            session => Place { session, epoch: place.epoch.checked_add(1).unwrap_or(1) },
        };
        for answer in &reply.answers {
            if let Some(known) = self.known.get_mut(&answer.partition) {
                known.last = Some(answer.standing());
            }
        }
    }

    /// The broker refused, or there is no answer: what it knows is not certain any more.
    pub(super) fn lost(&mut self, error: Option<ResponseError>) {
        self.place = match error {
            Some(ResponseError::FetchSessionIdNotFound) => Place::FIRST,
            // The old one is named, so that the broker need not keep it until it is the oldest.
            _ => Place { session: self.place.session, epoch: 0 },
        };
    }

    /// What the broker last said of a partition of which it has nothing new.
    pub(super) fn last(&self, partition: &TopicPartition) -> Option<Answer> {
        self.known.get(partition)?.last.clone()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::kafka::wire::Leader;

    impl AsRef<Question> for Question {
        fn as_ref(&self) -> &Self {
            self
        }
    }

    fn question(partition: i32, offset: i64) -> Question {
        let partition = TopicPartition::new("orders", partition);
        Question { partition, offset, leader: Leader { node: 1, epoch: 7 } }
    }

    fn wanted(questions: &[Question]) -> HashMap<TopicPartition, &Question> {
        questions.iter().map(|question| (question.partition.clone(), question)).collect()
    }

    fn reply(session: i32, partitions: &[i32]) -> Reply {
        let answer = |partition: &i32| Answer {
            partition: TopicPartition::new("orders", *partition),
            error: None,
            last_stable_offset: 5,
            high_watermark: 9,
            preferred_replica: None,
            aborted: Vec::new(),
            records: Bytes::from_static(b"large"),
        };
        Reply { refused: None, session, answers: partitions.iter().map(answer).collect() }
    }

    /// Asks, and has the broker answer: what was asked.
    fn asked(session: &mut FetchSession, questions: &[Question], reply: &Reply) -> (Place, Vec<i32>, Vec<i32>) {
        let wanted = wanted(questions);
        let changes = session.changes(&wanted);
        session.answered(changes.place, reply);
        let forgotten = changes.forgotten.iter().map(|partition| partition.partition);
        let named = changes.questions.iter().map(|question| question.partition.partition);
        (changes.place, named.collect(), forgotten.collect())
    }

    #[test]
    fn a_request_names_only_what_has_changed() {
        let mut session = FetchSession::default();
        let all = [question(2, 20), question(0, 0), question(1, 10)];
        let first = asked(&mut session, &all, &reply(44, &[0, 1, 2]));
        assert_eq!(first, (Place { session: 0, epoch: 0 }, vec![0, 1, 2], vec![]));
        let same = asked(&mut session, &all, &reply(44, &[]));
        assert_eq!(same, (Place { session: 44, epoch: 1 }, vec![], vec![]));
        // One moved on, one is asked for no more, one is new.
        let others = [question(0, 0), question(1, 11), question(3, 30)];
        let changed = asked(&mut session, &others, &reply(44, &[]));
        assert_eq!(changed, (Place { session: 44, epoch: 2 }, vec![1, 3], vec![2]));
        // A new leader epoch is a change, too.
        let led =
            [Question { leader: Leader { node: 1, epoch: 8 }, ..question(0, 0) }, question(1, 11), question(3, 30)];
        assert_eq!(asked(&mut session, &led, &reply(44, &[])).1, [0]);
    }

    #[test]
    fn what_the_broker_said_last_still_holds_while_it_is_silent() {
        let mut session = FetchSession::default();
        let partition = TopicPartition::new("orders", 1);
        assert!(session.last(&partition).is_none());
        asked(&mut session, &[question(1, 10)], &reply(44, &[1]));
        asked(&mut session, &[question(1, 10)], &reply(44, &[]));
        let last = session.last(&partition).expect("said once");
        assert_eq!((last.last_stable_offset, last.high_watermark, last.records.len()), (5, 9, 0));
        // Asked for no more, it is not told any more either: by then it may have changed.
        asked(&mut session, &[], &reply(44, &[]));
        assert!(session.last(&partition).is_none());
    }

    /// Kafka puts a partition into its answer whenever it names a replica: in its silence lies that the leader is to be read. Who took
    /// the old word for it went back to a replica that had failed, until there was a new record.
    #[test]
    fn a_replica_nearby_that_was_named_once_is_not_named_by_silence() {
        let mut session = FetchSession::default();
        let mut named = reply(44, &[1]);
        named.answers[0].preferred_replica = Some(2);
        asked(&mut session, &[question(1, 10)], &named);
        asked(&mut session, &[question(1, 10)], &reply(44, &[]));
        let last = session.last(&TopicPartition::new("orders", 1)).expect("said once");
        assert_eq!((last.preferred_replica, last.high_watermark), (None, 9));
    }

    #[test]
    fn a_session_that_is_lost_is_made_anew_with_everything_named() {
        let all = [question(0, 0), question(1, 10)];
        for (error, session_named) in [
            (None, 44),
            (Some(ResponseError::InvalidFetchSessionEpoch), 44),
            (Some(ResponseError::FetchSessionIdNotFound), 0),
        ] {
            let mut session = FetchSession::default();
            asked(&mut session, &all, &reply(44, &[0, 1]));
            session.lost(error);
            let anew = asked(&mut session, &all, &reply(45, &[]));
            assert_eq!(anew, (Place { session: session_named, epoch: 0 }, vec![0, 1], vec![]), "{error:?}");
            assert_eq!(asked(&mut session, &all, &reply(45, &[])).0, Place { session: 45, epoch: 1 });
        }
    }

    #[test]
    fn a_broker_without_room_for_a_session_is_told_everything_each_time() {
        let mut session = FetchSession::default();
        let all = [question(0, 0), question(1, 10)];
        for _ in 0..2 {
            let told = asked(&mut session, &all, &reply(0, &[0, 1]));
            assert_eq!(told, (Place { session: 0, epoch: 0 }, vec![0, 1], vec![]));
        }
    }

    #[test]
    fn the_count_of_requests_begins_again_at_one() {
        let mut session = FetchSession::default();
        session.answered(Place { session: 44, epoch: i32::MAX }, &reply(44, &[]));
        assert_eq!(session.changes(&wanted(&[])).place, Place { session: 44, epoch: 1 });
    }
}
