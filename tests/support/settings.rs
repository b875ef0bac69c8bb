//! A configuration file in parts, of which a test replaces those that it is about.

/// `[admin]` on a port that the system chooses, for the end of a configuration.
pub(crate) const ADMIN: &str = "\n[admin]\nlisten = \"127.0.0.1:0\"\n";

/// The parts of `keyfold.toml`, each without or with its table headers as its name says.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `[source.*]` with its header.
    pub(crate) source: String,
    /// What stands under `[time]`.
    pub(crate) time: String,
    /// What stands under `[plugin]`.
    pub(crate) plugin: String,
    /// `[sink.*]` with its header.
    pub(crate) sink: String,
    /// What stands under `[run]`.
    pub(crate) run: String,
    /// `state.checkpoint_interval`
    pub(crate) checkpoint_interval: String,
    /// `state.memory`; none for the default.
    pub(crate) memory: Option<&'static str>,
}

impl Default for Settings {
    /// `log.ndjson` through `visits` into `rows.ndjson`, with the configuration's own defaults.
    fn default() -> Settings {
        Settings {
            source: "[source.file]\npath = \"log.ndjson\"\nformat = \"records\"".to_owned(),
            time: String::new(),
            plugin: visits("record"),
            sink: "[sink.ndjson]\npath = \"rows.ndjson\"".to_owned(),
            run: "workers = 2".to_owned(),
            checkpoint_interval: "5s".to_owned(),
            memory: None,
        }
    }
}

impl Settings {
    /// The file.
    pub(crate) fn to_toml(&self) -> String {
        let Settings { source, time, plugin, sink, run, checkpoint_interval, memory } = self;
        let memory = memory.map_or_else(String::new, |size| format!("memory = \"{size}\"\n"));
        format!(
            "name = \"under-test\"\n\n{source}\n\n[time]\n{time}\n\n[plugin]\n{plugin}\n\n\
             [state]\nurl = \"file://{{dir}}/state\"\ncheckpoint_interval = \"{checkpoint_interval}\"\n{memory}\n\
             {sink}\n\n[dead_letters]\nfile = \"dead-letters.ndjson\"\n\n[run]\n{run}\n"
        )
    }

    /// Reads this topic instead of a file.
    pub(crate) fn over_kafka(self, brokers: &str, topic: &str) -> Settings {
        Settings { source: format!("[source.kafka]\nbrokers = \"{brokers}\"\ntopic = \"{topic}\""), ..self }
    }

    /// Writes to this keyspace instead of a file.
    pub(crate) fn into_cql(self, port: u16, keyspace: &str) -> Settings {
        let sink = format!(
            "[sink.cql]\nnodes = [\"127.0.0.1:{port}\"]\nkeyspace = \"{keyspace}\"\nnow = [\"ingestion_time\"]\nconsistency = \"ONE\""
        );
        Settings { sink, ..self }
    }

    /// With these bounds on work.
    pub(crate) fn bounded(self, workers: usize, batch_records: usize) -> Settings {
        Settings { run: format!("workers = {workers}\nbatch_records = {batch_records}"), ..self }
    }

    /// With the seed's ids.
    pub(crate) fn seed_ids(self) -> Settings {
        Settings { plugin: visits("append-second"), ..self }
    }
}

/// The seed's plugin with its timeout of 50 s.
fn visits(session_id: &str) -> String {
    format!("component = \"builtin:visits\"\nconfig = {{ session_timeout = \"50s\", session_id = \"{session_id}\" }}")
}
