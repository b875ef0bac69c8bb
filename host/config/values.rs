//! From the values of keys to a [`Config`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::keys;
use super::model::{
    Admin, AdminTls, Compile, Config, CqlSink, CqlTls, DeadLetters, FileFormat, FileSource, Hosts, ImplausibleTime,
    KafkaSource, Late, Limits, Listen, NdjsonSink, OnStrike, Ordering, Plugin, Run, Sink, Source, SqliteSink, State,
    Telemetry, Time, WithdrawnRows,
};
use super::read::Given;
use super::value::Typed;

/// The values of keys, each with the type of its key.
pub(super) struct Values(pub(super) BTreeMap<&'static str, Typed>);

impl Values {
    pub(super) fn config(&self, given: &Given) -> Option<Config> {
        let name = self.text("name")?;
        let source = self.source(given, &name)?;
        let dead_letters = self.dead_letters(&source)?;
        Some(Config {
            admin: if given.has("admin") { self.admin(given) } else { None },
            telemetry: self.telemetry(),
            time: self.time()?,
            plugin: self.plugin()?,
            state: State {
                url: self.url("state.url")?,
                checkpoint_interval: self.duration("state.checkpoint_interval")?,
                memory_bytes: self.size("state.memory")?,
                lane_bytes: self.size("state.lane_bytes"),
            },
            sink: self.sink(given)?,
            run: self.run()?,
            name,
            source,
            dead_letters,
        })
    }

    fn source(&self, given: &Given, name: &str) -> Option<Source> {
        if given.has("source.file") {
            return Some(Source::File(FileSource {
                path: self.path("source.file.path")?,
                format: match self.text("source.file.format")?.as_str() {
                    "payloads" => FileFormat::Payloads,
                    _ => FileFormat::Records,
                },
                timestamp_start_ms: self.integer("source.file.timestamp_start"),
                ordering: self.ordering("source.file.ordering")?,
                complete: false,
            }));
        }
        Some(Source::Kafka(KafkaSource {
            brokers: self.text("source.kafka.brokers")?,
            topic: self.text("source.kafka.topic")?,
            group: self.text("source.kafka.group").unwrap_or_else(|| name.to_owned()),
            ordering: self.ordering("source.kafka.ordering")?,
            hosts: match self.text("source.kafka.hosts")?.as_str() {
                "many" => Hosts::Many,
                _ => Hosts::One,
            },
            properties: self.properties("source.kafka.properties")?,
            secret_files: self.secret_files("source.kafka.properties"),
        }))
    }

    fn ordering(&self, path: &str) -> Option<Ordering> {
        Some(match self.text(path)?.as_str() {
            "partition" => Ordering::Partition,
            _ => Ordering::Topic,
        })
    }

    fn time(&self) -> Option<Time> {
        Some(Time {
            out_of_orderness_ms: self.ms("time.out_of_orderness")?,
            late: match self.text("time.late")?.as_str() {
                "dead-letter" => Late::DeadLetter,
                "process" => Late::Process,
                _ => Late::Drop,
            },
            future_limit_ms: self.ms("time.future_limit")?,
            clock_skew_ms: self.ms("time.clock_skew")?,
            idle_timeout_ms: self.ms("time.idle_timeout"),
            implausible: match self.text("time.implausible")?.as_str() {
                "inherit" => ImplausibleTime::Inherit,
                _ => ImplausibleTime::DeadLetter,
            },
        })
    }

    fn plugin(&self) -> Option<Plugin> {
        Some(Plugin {
            component: match self.0.get("plugin.component")? {
                Typed::Component(component) => component.clone(),
                _ => return None,
            },
            config: match self.0.get("plugin.config")? {
                Typed::Json(config) => config.clone(),
                _ => return None,
            },
            limits: Limits {
                memory_bytes: self.size("plugin.memory")?,
                fuel: self.count("plugin.fuel")?,
                output_rows: self.count("plugin.output_rows")?,
                output_bytes: self.size("plugin.output_bytes")?,
                state_bytes: self.size("plugin.state_bytes")?,
                record_bytes: self.size("plugin.record_bytes")?,
            },
            on_strike: match self.text("plugin.on_strike")?.as_str() {
                "halt" => OnStrike::Halt,
                "withdraw" => OnStrike::Withdraw,
                _ => OnStrike::DeadLetter,
            },
            probation_ms: self.ms("plugin.probation")?,
            withdrawn_rows: match self.text("plugin.withdrawn_rows")?.as_str() {
                "list" => WithdrawnRows::List,
                _ => WithdrawnRows::Delete,
            },
            audit: self.count("plugin.audit"),
            tables: self.texts("plugin.tables"),
            log_rate: self.count("plugin.log_rate")?,
            cache: self.path("plugin.cache").or_else(users_cache),
            compile: Compile {
                time: self.duration("plugin.compile_time")?,
                memory_bytes: self.size("plugin.compile_memory")?,
            },
        })
    }

    fn sink(&self, given: &Given) -> Option<Sink> {
        if given.has("sink.cql") {
            return self.cql(given).map(Sink::Cql);
        }
        if given.has("sink.sqlite") {
            let sink = SqliteSink { path: self.path("sink.sqlite.path")?, now: self.texts("sink.sqlite.now")? };
            return Some(Sink::Sqlite(sink));
        }
        if given.has("sink.ndjson") {
            let sink = NdjsonSink { path: self.path("sink.ndjson.path")?, now: self.texts("sink.ndjson.now")? };
            return Some(Sink::Ndjson(sink));
        }
        Some(Sink::Discard)
    }

    fn cql(&self, given: &Given) -> Option<CqlSink> {
        let tls = CqlTls {
            ca: self.path("sink.cql.tls.ca"),
            certificate: self.path("sink.cql.tls.certificate").zip(self.path("sink.cql.tls.key")),
            verify: self.flag("sink.cql.tls.verify")?,
            server_name: self.text("sink.cql.tls.server_name"),
        };
        Some(CqlSink {
            nodes: self.texts("sink.cql.nodes")?,
            keyspace: self.text("sink.cql.keyspace")?,
            now: self.texts("sink.cql.now")?,
            user: self.text("sink.cql.user"),
            password: self.text("sink.cql.password"),
            password_file: self.secret_file("sink.cql.password"),
            tls: given.has("sink.cql.tls").then(|| Box::new(tls)),
            consistency: self.text("sink.cql.consistency")?,
            in_flight: usize::try_from(self.count("sink.cql.in_flight")?).ok()?,
        })
    }

    fn dead_letters(&self, source: &Source) -> Option<DeadLetters> {
        let Some(topic) = self.text("dead_letters.topic") else {
            return self.path("dead_letters.file").map(DeadLetters::File);
        };
        let kafka = match source {
            Source::Kafka(kafka) => Some(kafka),
            Source::File(_) => None,
        };
        let brokers = self.text("dead_letters.brokers").or_else(|| kafka.map(|kafka| kafka.brokers.clone()))?;
        let own = |properties| (properties, self.secret_files("dead_letters.properties"));
        let properties = self.properties("dead_letters.properties").map(own);
        let of_source = || kafka.map(|kafka| (kafka.properties.clone(), kafka.secret_files.clone()));
        let (properties, secret_files) = properties.or_else(of_source).unwrap_or_default();
        Some(DeadLetters::Topic { brokers, topic, properties, secret_files })
    }

    fn admin(&self, given: &Given) -> Option<Admin> {
        let tls = || {
            Some(AdminTls {
                certificate: self.path("admin.tls.certificate")?,
                key: self.path("admin.tls.key")?,
                client_ca: self.path("admin.tls.client_ca"),
            })
        };
        Some(Admin {
            listen: Listen::parse(&self.text("admin.listen")?)?,
            probes: self.text("admin.probes").and_then(|address| address.parse().ok()),
            tls: if given.has("admin.tls") { Some(tls()?) } else { None },
            token: self.text("admin.token"),
            token_file: self.secret_file("admin.token"),
            read_token: self.text("admin.read_token"),
            read_token_file: self.secret_file("admin.read_token"),
            audit_log: self.path("admin.audit_log"),
            upload_bytes: usize::try_from(self.size("admin.upload_limit")?).ok()?,
            stuck_after: self.duration("admin.stuck_after")?,
        })
    }

    fn telemetry(&self) -> Option<Telemetry> {
        let otlp = self.text("telemetry.otlp")?.trim_end_matches('/').to_owned();
        Some(Telemetry { otlp, sample: self.count("telemetry.sample")? })
    }

    fn run(&self) -> Option<Run> {
        let workers = self.count("run.workers").and_then(|count| usize::try_from(count).ok());
        Some(Run {
            workers: workers.unwrap_or_else(default_workers),
            batch_records: usize::try_from(self.count("run.batch_records")?).ok()?,
            startup_timeout: self.duration("run.startup_timeout")?,
            deploy_on_start: self.flag("run.deploy_on_start")?,
        })
    }

    pub(super) fn text(&self, path: &str) -> Option<String> {
        if let Some(Typed::Text(text) | Typed::Secret(text, _)) = self.0.get(path) { Some(text.clone()) } else { None }
    }

    /// The file that a secret was read from.
    fn secret_file(&self, path: &str) -> Option<PathBuf> {
        if let Some(Typed::Secret(_, file)) = self.0.get(path) { Some(file.clone()) } else { None }
    }

    pub(super) fn path(&self, path: &str) -> Option<PathBuf> {
        if let Some(Typed::Path(file)) = self.0.get(path) { Some(file.clone()) } else { None }
    }

    fn url(&self, path: &str) -> Option<url::Url> {
        if let Some(Typed::Url(url)) = self.0.get(path) { Some(url.clone()) } else { None }
    }

    fn integer(&self, path: &str) -> Option<i64> {
        if let Some(Typed::Integer(number)) = self.0.get(path) { Some(*number) } else { None }
    }

    fn count(&self, path: &str) -> Option<u64> {
        self.integer(path).and_then(|number| u64::try_from(number).ok())
    }

    fn flag(&self, path: &str) -> Option<bool> {
        if let Some(Typed::Flag(flag)) = self.0.get(path) { Some(*flag) } else { None }
    }

    fn size(&self, path: &str) -> Option<u64> {
        if let Some(Typed::Size(bytes)) = self.0.get(path) { Some(*bytes) } else { None }
    }

    fn duration(&self, path: &str) -> Option<Duration> {
        if let Some(Typed::Duration(duration)) = self.0.get(path) { Some(*duration) } else { None }
    }

    fn ms(&self, path: &str) -> Option<i64> {
        self.duration(path).and_then(|duration| i64::try_from(duration.as_millis()).ok())
    }

    fn texts(&self, path: &str) -> Option<Vec<String>> {
        if let Some(Typed::Texts(texts)) = self.0.get(path) { Some(texts.clone()) } else { None }
    }

    pub(super) fn properties(&self, path: &str) -> Option<BTreeMap<String, String>> {
        if let Some(Typed::Properties(properties, _)) = self.0.get(path) { Some(properties.clone()) } else { None }
    }

    /// The files that secrets among these properties were read from.
    fn secret_files(&self, path: &str) -> BTreeMap<String, PathBuf> {
        if let Some(Typed::Properties(_, files)) = self.0.get(path) { files.clone() } else { BTreeMap::new() }
    }
}

/// Returns the folder where the user's programs keep what they can make again.
fn users_cache() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    caches.map(|folder| folder.join("keyfold").join("plugins"))
}

/// Returns the number of the machine's threads, up to a limit.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(keys::MOST_DEFAULT_WORKERS)
}
