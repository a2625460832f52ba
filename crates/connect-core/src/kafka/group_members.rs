//! Who is in a group right now.

use std::fmt;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ConsumerGroupDescribeRequest, DescribeGroupsRequest};
use kafka_protocol::protocol::StrBytes;

use super::coordinator::Coordinator;
use super::error::KafkaError;
use super::wire::Purpose;
use super::wire::cluster::REQUEST_TIMEOUT;

const DESCRIBE_GROUPS: i16 = 5;
const CONSUMER_GROUP_DESCRIBE: i16 = 0;

/// A member, as the broker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// What the client calls itself; all connectors are `connect`.
    pub client_id: String,
    /// Where its connection comes from.
    pub host: String,
    /// `CONNECT_KAFKA_INSTANCE_ID`.
    pub instance: Option<String>,
}

impl GroupMember {
    fn new(client_id: &StrBytes, host: &StrBytes, instance: Option<&StrBytes>) -> Self {
        let host = host.trim_start_matches('/').to_owned();
        Self { client_id: client_id.to_string(), host, instance: instance.map(ToString::to_string) }
    }
}

impl fmt::Display for GroupMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.client_id, self.host)?;
        match &self.instance {
            Some(instance) => write!(f, " ({instance})"),
            None => Ok(()),
        }
    }
}

/// The members of the group, by whichever protocol they came.
///
/// # Errors
/// Transient when it cannot be said now; Fatal when we may not ask.
pub async fn members(coordinator: &Coordinator) -> Result<Vec<GroupMember>, KafkaError> {
    match of_consumer_protocol(coordinator).await? {
        Some(members) => Ok(members),
        None => of_classic_protocol(coordinator).await,
    }
}

/// `None` when the group is none of this protocol.
async fn of_consumer_protocol(coordinator: &Coordinator) -> Result<Option<Vec<GroupMember>>, KafkaError> {
    let connection = coordinator.connection(Purpose::Coordinate).await?;
    if connection.version::<ConsumerGroupDescribeRequest>(CONSUMER_GROUP_DESCRIBE).is_none() {
        return Ok(None);
    }
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![coordinator.group_id()]);
    let answer = coordinator.call(Purpose::Coordinate, &request, CONSUMER_GROUP_DESCRIBE, REQUEST_TIMEOUT).await?;
    let Some(group) = answer.groups.first() else { return Ok(None) };
    match ResponseError::try_from_code(group.error_code) {
        None => {}
        Some(ResponseError::GroupIdNotFound | ResponseError::UnsupportedVersion) => return Ok(None),
        Some(error) => return Err(coordinator.explain("look up its members", error)),
    }
    let members = group.members.iter();
    Ok(Some(members.map(|m| GroupMember::new(&m.client_id, &m.client_host, m.instance_id.as_ref())).collect()))
}

async fn of_classic_protocol(coordinator: &Coordinator) -> Result<Vec<GroupMember>, KafkaError> {
    let request = DescribeGroupsRequest::default().with_groups(vec![coordinator.group_id()]);
    let answer = coordinator.call(Purpose::Coordinate, &request, DESCRIBE_GROUPS, REQUEST_TIMEOUT).await?;
    let Some(group) = answer.groups.first() else { return Ok(Vec::new()) };
    match ResponseError::try_from_code(group.error_code) {
        None => {}
        Some(ResponseError::GroupIdNotFound) => return Ok(Vec::new()),
        Some(error) => return Err(coordinator.explain("look up its members", error)),
    }
    let members = group.members.iter();
    Ok(members.map(|m| GroupMember::new(&m.client_id, &m.client_host, m.group_instance_id.as_ref())).collect())
}
