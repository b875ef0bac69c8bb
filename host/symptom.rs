//! Problems around a pipeline: a stable name for each, its meaning, and advice. The doctor detects them. `host/docs/operations.md` has a
//! section for each name, which a test verifies.

/// Generates the symptoms from one table: variant, name, meaning, advice.
macro_rules! symptoms {
    ($($variant:ident $name:literal $meaning:literal $advice:literal)*) => {
        /// A problem, or a risk.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Symptom {
            $(#[doc = $meaning] $variant,)*
        }

        impl Symptom {
            /// All symptoms.
            pub const ALL: &[Symptom] = &[$(Symptom::$variant),*];

            /// Returns the stable name that documentation and tools use.
            pub fn name(self) -> &'static str {
                match self {
                    $(Symptom::$variant => $name,)*
                }
            }

            /// Returns how to fix it.
            pub fn advice(self) -> &'static str {
                match self {
                    $(Symptom::$variant => $advice,)*
                }
            }
        }
    };
}

symptoms! {
    ConfigWrong "config-wrong"
        "The configuration is invalid."
        "correct the key named above"
    PluginMissing "plugin-missing"
        "The plugin's file cannot be read."
        "put the file where plugin.component points, or correct plugin.component"
    PluginRefused "plugin-refused"
        "The file is not a plugin for this contract, or it refuses its configuration."
        "run `keyfold plugin check FILE` on it, and build it for the contract of this keyfold"
    SecretInConfig "secret-in-config"
        "The plugin's configuration seems to have a secret."
        "remove the secret from plugin.config, and replace it wherever else it is used; see D39 in host/ARCHITECTURE.md for what to do instead"
    MemoryShort "memory-short"
        "The plugin's instances may need more memory than the machine has."
        "lower plugin.memory or run.workers, or give the host more memory"
    BrokerUnreachable "broker-unreachable"
        "No broker answers, or none accepts these credentials."
        "start the brokers, or correct source.kafka.brokers and the credentials in source.kafka.properties"
    BrokerOld "broker-old"
        "The brokers are older than Kafka 2.8, so topics have no ids."
        "upgrade the brokers to 2.8 or later: without topic ids, a topic that is deleted and recreated while it is read goes unnoticed until \
         the next start"
    TopicMissing "topic-missing"
        "The topic does not exist, or this user may not see it."
        "create the topic, or correct source.kafka.topic"
    TopicRefused "topic-refused"
        "The topic exists but cannot be read."
        "grant this user READ and DESCRIBE on the topic, and make sure that each of its partitions has a leader"
    RightMissing "right-missing"
        "This user lacks a right that a run, a deployment or a withdrawal needs."
        "grant the right named above, or use another user"
    FileUnusable "file-unusable"
        "The source's file is missing or not in its format."
        "correct source.file.path and source.file.format, or the line named above"
    ProducerClocks "producer-clocks"
        "Append times come from the producers' clocks."
        "set message.timestamp.type=LogAppendTime on the topic before the pipeline starts for the first time, or keep the clocks of all \
         producers synchronized"
    TimestampsImplausible "timestamps-implausible"
        "Records have timestamps that are missing or not in the years 1970 to 2099, so they order nothing."
        "correct the producers' timestamps (Kafka wants milliseconds), or set message.timestamp.type=LogAppendTime; see time.implausible"
    TimestampsFarAhead "timestamps-far-ahead"
        "Records have timestamps that are more than a day ahead of this machine's clock."
        "correct the producers' clocks, or set message.timestamp.type=LogAppendTime on the topic"
    MostRecordsLost "most-records-lost"
        "Most of the sampled records would be rejected or late."
        "correct the plugin, its configuration or [time] until they fit this log: `keyfold plugin run` shows what becomes of each record"
    EventTimesImplausible "event-times-implausible"
        "Most sampled events have no time, are of 1970 though their records are later, or lie outside the years 1 to 9999."
        "let the plugin give event times in milliseconds since 1970: with other units, timers never fire and the watermark does not move"
    LogCompacted "log-compacted"
        "The topic is compacted, so a replay reads fewer records than the first run."
        "use a topic with cleanup.policy=delete"
    LogTrimmed "log-trimmed"
        "Records that the pipeline needs next have been deleted."
        "restore the log, or start over with what is left under another state.url"
    LogReplaced "log-replaced"
        "The log is not the one that the state was built from."
        "point the source at the log that the state was built from, or use another state.url for this log"
    RetentionClose "retention-close"
        "Records that have not been folded yet are about to be deleted."
        "run the pipeline, or raise retention.ms and retention.bytes of the topic until it has caught up"
    BeginningTrimmed "beginning-trimmed"
        "The log no longer holds all the records that a full replay would need."
        "keep the checkpoints (do not run `keyfold reset`), or raise retention.ms and retention.bytes and start over with what is left under \
         another state.url"
    PartitionsGrown "partitions-grown"
        "The number of partitions has changed since the pipeline started for the first time."
        "start a new pipeline for the grown topic, with another state.url"
    RecordsWithoutKey "records-without-key"
        "Records without a key are spread over partitions that are folded separately."
        "start a new pipeline with source.kafka.ordering = \"topic\" and another state.url, or produce records with the key that the plugin \
         uses"
    KeyInTwoPartitions "key-in-two-partitions"
        "Events of one key are in partitions that are folded separately."
        "start a new pipeline with ordering = \"topic\" and another state.url, or produce records with the key that the plugin uses"
    ClockSkew "clock-skew"
        "The clocks of the broker and of this host differ by more than time.clock_skew."
        "synchronize both clocks by NTP, or raise time.clock_skew above the difference"
    ProbeFailed "probe-failed"
        "The broker's clock could not be measured."
        "allow this user to create and write the topic named by --probe-topic, with message.timestamp.type=LogAppendTime"
    StateUnusable "state-unusable"
        "Checkpoints and journal cannot be read or written."
        "give this user write access to state.url, and make sure that there is free space"
    ReadableByOthers "readable-by-others"
        "Other users of the machine can read the state or the dead letters."
        "run `chmod -R go-rwx` on what is named above; keyfold makes new files for its own user only"
    AdminInClear "admin-in-clear"
        "Tokens of the admin API travel over the network in clear."
        "configure admin.tls, or listen on a loopback address or a Unix socket"
    StateForeign "state-foreign"
        "The state belongs to another source, or was written by a newer keyfold."
        "point state.url at this pipeline's own state, or run the keyfold version that wrote it"
    JournalMissing "journal-missing"
        "There are checkpoints, but the journal that belongs to them is gone."
        "restore log/ under state.url from a backup; without it, delete lanes/ too, and the next start folds the log anew"
    SettingsDiffer "settings-differ"
        "The configuration asks for different rows than the deployment in force."
        "restore the former values, or deploy the change with `keyfold deployment create`"
    SettingsSuperseded "settings-superseded"
        "The deployment in force is newer than the configuration file and differs from it."
        "copy the settings in force into the file; `keyfold deployment list` shows the deployments"
    CqlUnreachable "cql-unreachable"
        "No node answers, or none accepts these credentials."
        "start the database, or correct sink.cql.nodes, user, password and tls"
    KeyspaceMissing "keyspace-missing"
        "The keyspace does not exist."
        "create the keyspace and its tables, or correct sink.cql.keyspace"
    TableMissing "table-missing"
        "The table does not exist."
        "create it with the statement above"
    TableMisfit "table-misfit"
        "The table's columns or primary key differ from what the plugin declares."
        "alter the table, or create another one with the statement above"
    ListNotFrozen "list-not-frozen"
        "Two writes of one list with equal timestamps would append instead of replace."
        "let only keyfold write to that table, or declare the column frozen<list<...>> in a new table"
    RowsAhead "rows-ahead"
        "Rows were written with a time that is yet to come, so the database drops newer writes until then."
        "correct the clock of whoever wrote them; then wait until that time has passed, or delete the rows with USING TIMESTAMP of that time \
         and write to a new table"
    ReplicationOne "replication-one"
        "Each row is stored on a single node: if that node dies, its rows are gone."
        "raise the keyspace's replication factor to 3 and run nodetool repair, unless this is a test environment"
    ConsistencyWeak "consistency-weak"
        "A write is acknowledged before a majority of the replicas has it."
        "set sink.cql.consistency = \"LOCAL_QUORUM\""
    ConsistencyUnsatisfiable "consistency-unsatisfiable"
        "The consistency needs more replicas than there are."
        "lower sink.cql.consistency, or raise the replication factor and the number of nodes"
    SinkUnusable "sink-unusable"
        "The sink's file cannot be used."
        "create its folder, and give this user write access"
    DeadLettersUnusable "dead-letters-unusable"
        "Dead letters cannot be written, so a lane would halt at the first one."
        "create the folder or the topic, and give this user write access"
    DeadLettersAtRisk "dead-letters-at-risk"
        "The topic of dead letters refuses, cuts or deletes some of them."
        "set cleanup.policy=delete and message.timestamp.type=LogAppendTime on the topic of dead letters, and a max.message.bytes above that of \
         the source's topic"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_in_kebab_case() {
        let names: BTreeSet<&str> = Symptom::ALL.iter().map(|symptom| symptom.name()).collect();
        assert_eq!(names.len(), Symptom::ALL.len());
        for name in names {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
        }
    }
}
