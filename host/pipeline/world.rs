//! The world around a pipeline: what it reads from, writes to and keeps its state in. A simulation has one of its own.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use object_store::ObjectStore;
use tokio::runtime::Handle;

use crate::config::{self, Config, Hosts};
use crate::dead_letter::{self, DeadLetterWriter};
use crate::failure::Failure;
use crate::row::Table;
use crate::sink::{self, Sink};
use crate::source::group::Group;
use crate::source::kafka::member::Member;
use crate::source::log_source::LogSource;
use crate::state::database::Databases;
use crate::state::forms::ObjectDatabases;
use crate::state::objects::{Presence, objects};

/// The world around a pipeline. What cannot be reached is tried again until a deadline.
pub trait World: Send + Sync {
    /// Opens the object store of `state.url`.
    fn objects(&self, config: &Config) -> Result<Arc<dyn ObjectStore>, Failure>;
    /// Returns the databases on that object store.
    fn databases(&self, objects: &Arc<dyn ObjectStore>, runtime: &Handle) -> Arc<dyn Databases>;
    /// Looks at the log.
    fn log(&self, config: &Config, deadline: Instant) -> Result<LogSource, Failure>;
    /// Opens the sink for rows of `tables`.
    fn sink(
        &self,
        config: &Config,
        tables: &Arc<[Table]>,
        runtime: &Handle,
        deadline: Instant,
    ) -> Result<Box<dyn Sink>, Failure>;
    /// Joins the group of hosts that share the log; none if this host folds it alone.
    fn group(&self, config: &Config) -> Result<Option<Box<dyn Group>>, Failure>;
    /// Opens what dead letters are written to.
    fn letters(&self, config: &Config, deadline: Instant) -> Result<Box<dyn DeadLetterWriter>, Failure>;
}

/// The world that the configuration names.
#[derive(Default)]
pub(super) struct Real {
    /// That this host is there, once the object store is open. None in a bucket.
    presence: OnceLock<Option<Presence>>,
}

impl World for Real {
    fn objects(&self, config: &Config) -> Result<Arc<dyn ObjectStore>, Failure> {
        let objects = objects(&config.state.url)?;
        let _ = self.presence.set(Presence::announce(&config.state.url)?); // a start opens it once
        Ok(objects)
    }

    fn databases(&self, objects: &Arc<dyn ObjectStore>, runtime: &Handle) -> Arc<dyn Databases> {
        Arc::new(ObjectDatabases::new(Arc::clone(objects), runtime.clone()))
    }

    fn log(&self, config: &Config, deadline: Instant) -> Result<LogSource, Failure> {
        LogSource::inspect(config, deadline)
    }

    fn sink(
        &self,
        config: &Config,
        tables: &Arc<[Table]>,
        runtime: &Handle,
        deadline: Instant,
    ) -> Result<Box<dyn Sink>, Failure> {
        sink::open(&config.sink, tables, runtime, Some(deadline))
    }

    fn group(&self, config: &Config) -> Result<Option<Box<dyn Group>>, Failure> {
        match &config.source {
            config::Source::Kafka(kafka) if kafka.hosts == Hosts::Many => Ok(Some(Box::new(Member::join(kafka)?))),
            config::Source::Kafka(_) | config::Source::File(_) => Ok(None),
        }
    }

    fn letters(&self, config: &Config, deadline: Instant) -> Result<Box<dyn DeadLetterWriter>, Failure> {
        dead_letter::open(&config.dead_letters, topic(config), Some(deadline))
    }
}

/// Returns the topic that a pipeline reads, if it reads one.
pub(super) fn topic(config: &Config) -> Option<&str> {
    match &config.source {
        config::Source::Kafka(kafka) => Some(&kafka.topic),
        config::Source::File(_) => None,
    }
}
