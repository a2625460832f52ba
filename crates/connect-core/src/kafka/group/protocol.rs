//! What members of the classic protocol tell each other through the coordinator.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as AssignedTopic;
use kafka_protocol::messages::consumer_protocol_subscription::TopicPartition as OwnedTopic;
use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use super::sticky::Member;
use crate::kafka::wire::cluster::topic_name;
use crate::record::TopicPartition;

/// The version of the subscription that we write: generation and rack come with it.
const SUBSCRIPTION: i16 = 3;
const ASSIGNMENT: i16 = 1;

/// What we say when we join. The bytes begin with their version.
pub(super) fn encode_subscription(member: &Member, rack: Option<&str>) -> Result<Bytes, String> {
    let topics = member.topics.iter().map(|name| StrBytes::from_string(name.clone())).collect();
    let owned = by_topic(&member.owned)
        .into_iter()
        .map(|(topic, partitions)| OwnedTopic::default().with_topic(topic_name(topic)).with_partitions(partitions));
    // Java's cooperative-sticky assignor reads the generation from here when the subscription is of an older version.
    let mut user_data = BytesMut::new();
    user_data.put_i32(member.generation);
    let subscription = ConsumerProtocolSubscription::default()
        .with_topics(topics)
        .with_user_data(Some(user_data.freeze()))
        .with_owned_partitions(owned.collect())
        .with_generation_id(member.generation)
        .with_rack_id(rack.map(|rack| StrBytes::from_string(rack.to_owned())));
    let mut bytes = BytesMut::new();
    bytes.put_i16(SUBSCRIPTION);
    subscription.encode(&mut bytes, SUBSCRIPTION).map_err(|error| error.to_string())?;
    Ok(bytes.freeze())
}

/// What another member says when it joins. Later versions only add to the end.
pub(super) fn decode_subscription(mut bytes: Bytes) -> Result<Member, String> {
    let version = version(&mut bytes)?.min(SUBSCRIPTION);
    let said = ConsumerProtocolSubscription::decode(&mut bytes, version).map_err(|error| error.to_string())?;
    let generation = match said.user_data.filter(|_| version < 2) {
        Some(mut user_data) if user_data.len() >= 4 => user_data.get_i32(),
        _ => said.generation_id,
    };
    let owned = said
        .owned_partitions
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|number| TopicPartition::new(&**topic.topic, *number)));
    Ok(Member { topics: said.topics.iter().map(ToString::to_string).collect(), owned: owned.collect(), generation })
}

/// What the leader gives to a member.
pub(super) fn encode_assignment(partitions: &BTreeSet<TopicPartition>) -> Result<Bytes, String> {
    let topics = by_topic(partitions)
        .into_iter()
        .map(|(topic, partitions)| AssignedTopic::default().with_topic(topic_name(topic)).with_partitions(partitions));
    let assignment = ConsumerProtocolAssignment::default().with_assigned_partitions(topics.collect());
    let mut bytes = BytesMut::new();
    bytes.put_i16(ASSIGNMENT);
    assignment.encode(&mut bytes, ASSIGNMENT).map_err(|error| error.to_string())?;
    Ok(bytes.freeze())
}

/// What we get from the leader; no bytes are no partitions.
pub(super) fn decode_assignment(mut bytes: Bytes) -> Result<BTreeSet<TopicPartition>, String> {
    if bytes.is_empty() {
        return Ok(BTreeSet::new());
    }
    let version = version(&mut bytes)?.min(ASSIGNMENT);
    let assignment = ConsumerProtocolAssignment::decode(&mut bytes, version).map_err(|error| error.to_string())?;
    let partitions = assignment
        .assigned_partitions
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|number| TopicPartition::new(&**topic.topic, *number)));
    Ok(partitions.collect())
}

fn version(bytes: &mut Bytes) -> Result<i16, String> {
    if bytes.len() < 2 {
        return Err("the version is missing".to_owned());
    }
    Ok(bytes.get_i16().max(0))
}

fn by_topic(partitions: &BTreeSet<TopicPartition>) -> BTreeMap<&str, Vec<i32>> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    topics
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member {
        let owned = [("a", 0), ("a", 2), ("b", 1)].map(|(topic, number)| TopicPartition::new(topic, number));
        Member { topics: ["a", "b"].map(str::to_owned).into(), owned: owned.into(), generation: 7 }
    }

    #[test]
    fn what_is_said_is_heard() {
        let member = member();
        assert_eq!(
            decode_subscription(encode_subscription(&member, Some("eu-1")).expect("encoded")),
            Ok(member.clone())
        );
        assert_eq!(decode_assignment(encode_assignment(&member.owned).expect("encoded")), Ok(member.owned));
        assert_eq!(decode_assignment(Bytes::new()), Ok(BTreeSet::new()));
    }

    #[test]
    fn an_old_member_s_generation_is_in_its_user_data() {
        let mut bytes = BytesMut::new();
        bytes.put_i16(1);
        let said = ConsumerProtocolSubscription::default().with_user_data(Some(Bytes::from_static(&[0, 0, 0, 9])));
        said.encode(&mut bytes, 1).expect("encoded");
        assert_eq!(decode_subscription(bytes.freeze()).map(|member| member.generation), Ok(9));
    }

    #[test]
    fn bytes_that_are_cut_off_are_an_error() {
        let bytes = encode_subscription(&member(), None).expect("encoded");
        assert!(decode_subscription(bytes.slice(..9)).is_err());
        assert!(decode_subscription(Bytes::from_static(&[0])).is_err());
    }
}
