//! The connection to a CQL database: nodes, credentials, TLS, consistency, and queries of system tables. Knows no rows.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnectorBuilder, SslVerifyMode};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, MetadataError, NewSessionError,
};
use scylla::frame::types::Consistency;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::statement::Statement;
use tokio::runtime::Handle;

use crate::backoff::Backoff;
use crate::config::{CqlSink, CqlTls};
use crate::failure::Failure;
use crate::sink::cql::login::Login;
use crate::tls::{self, Named, Refusal};

/// When an unanswered request counts as failed. Longer than the databases' own timeouts (2 s for a write), so that theirs, which say more,
/// come first.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);

/// Connects, retrying until `deadline`; without one it tries once. Refused credentials fail at once.
pub(super) fn connect(
    config: &CqlSink,
    runtime: &Handle,
    deadline: Option<Instant>,
    backoff: &mut Backoff,
) -> Result<Session, Failure> {
    let (builder, refusal) = session_builder(config)?;
    loop {
        let error = match runtime.block_on(builder.build()) {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        if let Some(reason) = credentials_error(&error) {
            return Err(refused_credentials(config, &reason));
        }
        let outage = match refusal.take() {
            Some(why) => format!("{error}: {why}"),
            None => error.to_string(),
        };
        if !backoff.pause_until(deadline, &outage) {
            return Err(unreachable(config, &outage));
        }
    }
}

/// Returns the rows of a system table from one node: system tables are not replicated, so the consistency of writes does not apply.
pub(super) async fn query_system<R>(session: &Session, select: &str, values: &[&String]) -> Result<Vec<R>, String>
where
    R: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm>,
{
    let mut statement = Statement::new(select);
    statement.set_consistency(Consistency::LocalOne);
    let answer = session.query_unpaged(statement, values).await.map_err(|e| e.to_string())?;
    let rows = answer.into_rows_result().map_err(|e| e.to_string())?;
    let rows = rows.rows::<R>().map_err(|e| e.to_string())?;
    rows.collect::<Result<_, _>>().map_err(|e| e.to_string())
}

fn session_builder(config: &CqlSink) -> Result<(SessionBuilder, Refusal), Failure> {
    if config.nodes.is_empty() {
        return Err(Failure::config("sink.cql.nodes: is empty; name at least one node as host:port"));
    }
    let profile = ExecutionProfile::builder()
        .consistency(write_consistency(&config.consistency)?)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .speculative_execution_policy(None)
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.nodes)
        .default_execution_profile_handle(profile.into_handle())
        .keyspaces_to_fetch([&config.keyspace])
        .fetch_full_schema_metadata(false)
        .keepalive_interval(Duration::from_secs(10))
        .keepalive_timeout(Duration::from_secs(10));
    if let Some(user) = &config.user {
        let password = config.password.as_deref().unwrap_or_default();
        let login = Login::new(user, password, config.password_file.as_deref());
        builder = builder.authenticator_provider(Arc::new(login));
    }
    let refusal = Refusal::default();
    if let Some(tls) = &config.tls {
        builder = builder.tls_context(Some(tls_context(tls, &names(tls, &config.nodes), &refusal)?));
    }
    Ok((builder, refusal))
}

/// Names that a node's certificate may have instead of its address (D49): the configured one, or those by which nodes are given.
fn names(tls: &CqlTls, nodes: &[String]) -> Vec<String> {
    if let Some(name) = &tls.server_name {
        return vec![name.clone()];
    }
    let hosts = nodes.iter().map(|node| node.rsplit_once(':').map_or(node.as_str(), |(host, _)| host));
    let is_name = |host: &&str| host.trim_matches(['[', ']']).parse::<IpAddr>().is_err();
    hosts.filter(is_name).map(str::to_owned).collect()
}

/// The driver compares a certificate with the node's IP address, and knows no other way; what it refuses is compared with the names.
fn tls_context(config: &CqlTls, names: &[String], refusal: &Refusal) -> Result<SslConnectorBuilder, Failure> {
    let ca = config.ca.as_deref().map(|path| Named { key: "sink.cql.tls.ca", path });
    let mut builder = tls::client("sink.cql.tls", ca)?;
    if let Some((certificate, key)) = &config.certificate {
        let certificate = Named { key: "sink.cql.tls.certificate", path: certificate };
        tls::identify(&mut builder, certificate, Named { key: "sink.cql.tls.key", path: key })?;
    }
    if config.verify {
        tls::accept_names(&mut builder, names, refusal);
    } else {
        builder.set_verify(SslVerifyMode::NONE);
    }
    Ok(builder)
}

const CONSISTENCIES: [(&str, Consistency); 9] = [
    ("LOCAL_QUORUM", Consistency::LocalQuorum),
    ("QUORUM", Consistency::Quorum),
    ("EACH_QUORUM", Consistency::EachQuorum),
    ("LOCAL_ONE", Consistency::LocalOne),
    ("ONE", Consistency::One),
    ("TWO", Consistency::Two),
    ("THREE", Consistency::Three),
    ("ALL", Consistency::All),
    ("ANY", Consistency::Any),
];

/// Returns the write consistency of this name.
fn write_consistency(name: &str) -> Result<Consistency, Failure> {
    let found = CONSISTENCIES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, consistency)| *consistency).ok_or_else(|| {
        let known = CONSISTENCIES.map(|(known, _)| known).join(", ");
        Failure::config(format!("sink.cql.consistency: {name} is not a write consistency; use one of {known}"))
    })
}

/// Returns the consistency of reads that must see what writes of consistency `name` have stored. Where reads do not have the same one, it is
/// the weakest that sees them: a local quorum overlaps the quorum of every data centre. No read is sure to see what ANY has left as a hint.
pub(super) fn read_consistency(name: &str) -> Result<Consistency, Failure> {
    Ok(match write_consistency(name)? {
        Consistency::EachQuorum => Consistency::LocalQuorum,
        Consistency::Any => Consistency::One,
        same => same,
    })
}

/// Returns the node's message if it refused the credentials, or refused a connection without any.
fn credentials_error(error: &NewSessionError) -> Option<String> {
    let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
        last_connection_error: ConnectionError::ConnectionSetupRequestError(setup),
    })) = error
    else {
        return None;
    };
    match setup.get_error() {
        ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError | DbError::Unauthorized, message) => {
            Some(message.clone())
        }
        ConnectionSetupRequestErrorKind::MissingAuthentication => Some("a user and a password are required".to_owned()),
        _ => None,
    }
}

fn refused_credentials(config: &CqlSink, reason: &str) -> Failure {
    Failure::outside(format!(
        "{} refused the credentials: {reason}; set sink.cql.user and sink.cql.password (or password_file)",
        config.nodes.join(", ")
    ))
}

/// The failure of a start that found no node.
pub(super) fn unreachable(config: &CqlSink, outage: &str) -> Failure {
    Failure::outside(format!(
        "cannot reach any of sink.cql.nodes ({}): {outage}; start the database, or correct the addresses (host:port)",
        config.nodes.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn a_certificate_may_have_the_names_by_which_nodes_are_given_or_the_configured_one() {
        let nodes = ["db.example:9042", "10.0.0.1:9042", "[::1]:9042", "localhost:1"].map(str::to_owned);
        let mut tls = CqlTls { ca: None, certificate: None, verify: true, server_name: None };
        assert_eq!(names(&tls, &nodes), ["db.example", "localhost"]);
        tls.server_name = Some("cluster.example".to_owned());
        assert_eq!(names(&tls, &nodes), ["cluster.example"]);
    }

    #[test]
    fn an_unknown_consistency_is_refused_by_its_key() {
        assert_eq!(write_consistency("local_quorum").expect("it is known"), Consistency::LocalQuorum);
        let failure = write_consistency("MOST").expect_err("it is unknown");
        assert_eq!(failure.exit, Exit::Config);
        let expect = "sink.cql.consistency: MOST is not a write consistency; use one of LOCAL_QUORUM, ";
        assert!(failure.message.starts_with(expect), "{failure}");
    }
}
