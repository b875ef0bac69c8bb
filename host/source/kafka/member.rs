//! Membership of Kafka's consumer group, by a client of its own that reads nothing: its partitions are paused as soon as they are assigned. So
//! which host folds a partition, and where a lane reads, are two things: lanes read at their own positions, with a client that is no member.
//!
//! What is revoked is released only when the host says so: until then the client is asked on, and so stays a member.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use crate::config;
use crate::failure::Failure;
use crate::position::{Offset, Partition};
use crate::source::group::{Change, Commits, Group};
use crate::source::kafka::broker::{
    Voice, ascending, commit, locked, member_config, refused_configuration, unauthorized, unexpected,
};
use crate::source::kafka::secrets::{self, Secrets};

/// A member of the group of `source.kafka.group`.
pub struct Member {
    client: Arc<BaseConsumer<Bell>>,
    secrets: Secrets,
    group: String,
    topic: String,
}

/// What the client says, and how the member's share changes.
#[derive(Default)]
struct Bell {
    voice: Voice,
    changes: Mutex<VecDeque<Change>>,
    /// What was revoked, and is not released yet.
    revoked: Mutex<Option<TopicPartitionList>>,
    is_leaving: AtomicBool,
}

impl Member {
    /// Joins the group. Whether brokers can be reached is seen later.
    pub fn join(config: &config::KafkaSource) -> Result<Member, Failure> {
        let settings: ClientConfig = member_config(config);
        let client =
            BaseConsumer::from_config_and_context(&settings, Bell::default()).map_err(refused_configuration)?;
        client.subscribe(&[&config.topic]).map_err(unexpected)?;
        let properties = secrets::fresh(&config.properties, &config.secret_files);
        Ok(Member {
            client: Arc::new(client),
            secrets: Secrets::new("source.kafka.properties", &properties, &config.secret_files, false),
            group: config.group.clone(),
            topic: config.topic.clone(),
        })
    }

    fn bell(&self) -> &Bell {
        self.client.context()
    }

    /// What the client retries by itself is said now and then; what it cannot mend ends the host.
    fn heed(&self, error: &KafkaError) -> Result<(), Failure> {
        let group = &self.group;
        let fatal = self.client.client().fatal_error();
        let code = fatal.as_ref().map(|(code, _)| *code).or(error.rdkafka_error_code());
        let text = fatal.map_or_else(|| error.to_string(), |(_, text)| text);
        Err(match code {
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => Failure::outside(format!(
                "the brokers refuse to let this user join consumer group {group}: grant it READ on the group, or use another user"
            )),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Failure::outside(unauthorized(&self.topic)),
            Some(RDKafkaErrorCode::FencedInstanceId | RDKafkaErrorCode::UnreleasedInstanceId) => {
                Failure::state(format!(
                    "another host has joined consumer group {group} with the same group.instance.id: give each host one of its own, for example \
                 by KEYFOLD_SOURCE__KAFKA__PROPERTIES"
                ))
            }
            Some(RDKafkaErrorCode::InconsistentGroupProtocol) => Failure::outside(format!(
                "consumer group {group} has members with another partition.assignment.strategy: let all hosts have the same \
                 source.kafka.properties"
            )),
            Some(
                RDKafkaErrorCode::UnsupportedVersion | RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::Fatal,
            ) => Failure::outside(format!("cannot be a member of consumer group {group}: {text}")),
            _ => {
                self.bell().voice.complain(&text);
                return Ok(());
            }
        })
    }

    /// Whether the group has given up a member that was still about to release partitions. Then they are released.
    fn lost_while_revoked(&self) -> Option<Change> {
        let lost = locked(&self.bell().revoked).is_some() && self.client.assignment_lost();
        let list = locked(&self.bell().revoked).take_if(|_| lost)?;
        unassign(&self.client, &list).ok()?;
        Some(Change::Lost(partitions(&list)))
    }
}

impl Group for Member {
    fn next(&mut self, timeout: Duration) -> Result<Option<Change>, Failure> {
        self.secrets.look(self.client.client());
        if let Some(change) = locked(&self.bell().changes).pop_front().or_else(|| self.lost_while_revoked()) {
            return Ok(Some(change));
        }
        if let Some(Err(error)) = self.client.poll(timeout) {
            self.heed(&error)?;
        }
        Ok(locked(&self.bell().changes).pop_front())
    }

    fn release(&mut self) -> Result<(), Failure> {
        match locked(&self.bell().revoked).take() {
            Some(list) => unassign(&self.client, &list).map_err(unexpected),
            None => Ok(()),
        }
    }

    fn commits(&self) -> Arc<dyn Commits> {
        Arc::new(Committed { client: Arc::clone(&self.client), topic: self.topic.clone() })
    }
}

impl Drop for Member {
    /// Lets the client leave: from now on it releases what is revoked at once.
    fn drop(&mut self) {
        self.bell().is_leaving.store(true, Ordering::Release);
        if let Some(list) = locked(&self.bell().revoked).take() {
            drop(unassign(&self.client, &list)); // it leaves anyway
        }
    }
}

/// Commits by the member, since a group with members takes the offsets of no other client.
struct Committed {
    client: Arc<BaseConsumer<Bell>>,
    topic: String,
}

impl Commits for Committed {
    fn commit(&self, next: &[(Partition, Offset)]) {
        commit(&self.client, &self.topic, next);
    }
}

impl ClientContext for Bell {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // That a commit failed is told with its reason by `commit_callback`.
        let level = if facility == "COMMITFAIL" { RDKafkaLogLevel::Debug } else { level };
        self.voice.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(error, reason);
    }

    fn stats_raw(&self, _statistics: &[u8]) {}
}

impl ConsumerContext for Bell {
    fn rebalance(&self, client: &BaseConsumer<Bell>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let taken = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                let taken = assign(client, list);
                locked(&self.changes).push_back(Change::Assigned(partitions(list)));
                taken
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS if self.is_leaving.load(Ordering::Acquire) => {
                unassign(client, list)
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS if client.assignment_lost() => {
                locked(&self.changes).push_back(Change::Lost(partitions(list)));
                unassign(client, list)
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                *locked(&self.revoked) = Some(list.clone());
                locked(&self.changes).push_back(Change::Revoked(partitions(list)));
                Ok(())
            }
            other => {
                self.voice
                    .complain(&format!("the consumer group is not rebalanced: {}", RDKafkaErrorCode::from(other)));
                unassign(client, list)
            }
        };
        if let Err(error) = taken {
            self.voice.complain(&format!("the consumer group's assignment was not taken: {error}"));
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        use RDKafkaErrorCode::{IllegalGeneration, NoOffset, RebalanceInProgress, StaleMemberEpoch, UnknownMemberId};
        let code = result.as_ref().err().and_then(KafkaError::rdkafka_error_code);
        // While partitions move, members that have not heard of it yet are refused; the next checkpoint commits again.
        let moves = [IllegalGeneration, NoOffset, RebalanceInProgress, StaleMemberEpoch, UnknownMemberId];
        if code.is_some_and(|code| moves.contains(&code)) {
            tracing::debug!(event = "offsets-not-committed", ?code, "offsets not committed while partitions move");
        } else {
            self.voice.commit_callback(result, offsets);
        }
    }
}

/// Takes an assignment, and reads nothing of it.
fn assign(client: &BaseConsumer<Bell>, list: &TopicPartitionList) -> KafkaResult<()> {
    match client.rebalance_protocol() {
        RebalanceProtocol::Cooperative => client.incremental_assign(list)?,
        RebalanceProtocol::Eager | RebalanceProtocol::None => client.assign(list)?,
    }
    client.pause(list)
}

fn unassign(client: &BaseConsumer<Bell>, list: &TopicPartitionList) -> KafkaResult<()> {
    match client.rebalance_protocol() {
        RebalanceProtocol::Cooperative => client.incremental_unassign(list),
        RebalanceProtocol::Eager | RebalanceProtocol::None => client.unassign(),
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<Partition> {
    ascending(list.elements().iter().map(|element| element.partition()))
}
