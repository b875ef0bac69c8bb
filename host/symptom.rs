//! What can be wrong around a pipeline: a name for each that never changes, what it means and how it is mended. Owns the words, not the
//! looking. `docker/README.md` has a section for each name; a test holds the two equal.

/// Makes the symptoms from one table: variant, name, meaning, advice.
macro_rules! symptoms {
    ($($variant:ident $name:literal $meaning:literal $advice:literal)*) => {
        /// What is wrong, or may go wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Symptom {
            $(#[doc = $meaning] $variant,)*
        }

        impl Symptom {
            /// All of them.
            pub const ALL: &[Symptom] = &[$(Symptom::$variant),*];

            /// The name by which documentation and tools know it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Symptom::$variant => $name,)*
                }
            }

            /// What mends it.
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
        "The configuration is not one."
        "correct the key that is named"
    PluginMissing "plugin-missing"
        "The plugin's file cannot be read."
        "put the file where plugin.component says, or correct plugin.component"
    PluginRefused "plugin-refused"
        "The file is no plugin of this contract, or refuses its configuration."
        "run `keyfold plugin check FILE` on it, and build it for the contract that this keyfold has"
    MemoryShort "memory-short"
        "The plugin's instances may need more memory than there is."
        "lower plugin.memory or run.workers, or give the host more memory"
    BrokerUnreachable "broker-unreachable"
        "No broker answers, or none lets this user in."
        "start the brokers, or correct source.kafka.brokers and the credentials in source.kafka.properties"
    BrokerOld "broker-old"
        "The brokers are older than Kafka 2.8 and give topics no ids."
        "upgrade the brokers to 2.8 or later: without ids a topic that is made anew while it is read goes unnoticed until the next start"
    TopicMissing "topic-missing"
        "There is no such topic, or this user may not see it."
        "create the topic, or correct source.kafka.topic"
    TopicRefused "topic-refused"
        "The topic is there but cannot be read."
        "grant this user READ and DESCRIBE on the topic, and see that each of its partitions has a leader"
    FileUnusable "file-unusable"
        "The source's file is missing or not of its format."
        "correct source.file.path and source.file.format, or the line that is named"
    ProducerClocks "producer-clocks"
        "Append times are the producers' clocks."
        "set message.timestamp.type=LogAppendTime on the topic before the pipeline begins, or see that all producers keep their clocks"
    LogCompacted "log-compacted"
        "The topic is compacted, so a replay meets another log than the first run."
        "use a topic with cleanup.policy=delete"
    LogTrimmed "log-trimmed"
        "Records that the pipeline needs next are deleted."
        "restore the log, or begin anew from what is left with another state.url"
    LogAnew "log-anew"
        "The log is not the one that the state was built from."
        "point the source at the log that the state was built from, or give this log another state.url"
    RetentionClose "retention-close"
        "Records that were not folded yet are about to be deleted."
        "run the pipeline, or raise retention.ms and retention.bytes of the topic until it has caught up"
    BeginningTrimmed "beginning-trimmed"
        "The log no longer holds what a replay from nothing would need."
        "keep the checkpoints (no `keyfold reset`), or begin anew from what is left with another state.url, after raising retention.ms and \
         retention.bytes"
    PartitionsGrown "partitions-grown"
        "The topic has other partitions than the pipeline began with."
        "give the grown topic a pipeline of its own: another state.url"
    RecordsWithoutKey "records-without-key"
        "Records without a key are spread over partitions that are folded apart."
        "set source.kafka.ordering = \"topic\" in a pipeline of its own (another state.url), or key the records by what the plugin keys by"
    KeyInTwoPartitions "key-in-two-partitions"
        "One key's events lie in partitions that are folded apart."
        "set ordering = \"topic\" in a pipeline of its own (another state.url), or key the records by what the plugin keys by"
    ClockSkew "clock-skew"
        "The broker's clock and this host's differ by more than time.clock_skew."
        "let both machines keep their clocks by NTP, or raise time.clock_skew above the difference"
    ProbeFailed "probe-failed"
        "The clock of the broker could not be told."
        "let this user create and write the topic that --probe-topic names, with message.timestamp.type=LogAppendTime"
    StateUnusable "state-unusable"
        "Checkpoints and journal cannot be written or read."
        "let this user write where state.url points, and see that there is room"
    StateForeign "state-foreign"
        "The state is another source's, or of a newer keyfold."
        "point state.url at this pipeline's own state, or run the keyfold that wrote it"
    SettingsDiffer "settings-differ"
        "The configuration asks for other rows than what is in force."
        "put the former values back, or order the change with `keyfold deploy`"
    SettingsSuperseded "settings-superseded"
        "What was deployed holds, and the configuration file says something else."
        "write into the file what `keyfold deployments` shows to be in force"
    CqlUnreachable "cql-unreachable"
        "No node answers, or none lets this user in."
        "start the database, or correct sink.cql.nodes, user, password and tls"
    KeyspaceMissing "keyspace-missing"
        "There is no such keyspace."
        "create it and its tables, or correct sink.cql.keyspace"
    TableMissing "table-missing"
        "There is no such table."
        "create it with the statement above"
    TableMisfit "table-misfit"
        "The table's columns or its primary key are not what the plugin declares."
        "alter the table, or make another one with the statement above"
    ListNotFrozen "list-not-frozen"
        "Writes of one list with equal timestamps would append instead of replace."
        "let nothing but keyfold write that table, or declare the column frozen<list<...>> in a new table"
    ReplicationOne "replication-one"
        "Each row lies on one node only."
        "raise the keyspace's replication factor to 3 and run nodetool repair, unless this is a place to try things"
    ConsistencyWeak "consistency-weak"
        "A row counts as written before most of its replicas have it."
        "set sink.cql.consistency = \"LOCAL_QUORUM\""
    ConsistencyUnsatisfiable "consistency-unsatisfiable"
        "More replicas have to acknowledge than there are."
        "lower sink.cql.consistency, or raise the replication factor and the number of nodes"
    SinkUnusable "sink-unusable"
        "The sink's file cannot be used."
        "make its folder, and let this user write there"
    DeadLettersUnusable "dead-letters-unusable"
        "Dead letters cannot be kept, so a lane would halt at the first."
        "make the folder or the topic, and let this user write there"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_words_and_each_means_one_thing() {
        let names: BTreeSet<&str> = Symptom::ALL.iter().map(|symptom| symptom.name()).collect();
        assert_eq!(names.len(), Symptom::ALL.len());
        for name in names {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
        }
    }
}
