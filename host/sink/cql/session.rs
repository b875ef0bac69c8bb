//! The connection to a CQL database: nodes, credentials, TLS, consistency, and queries of system tables. Knows no rows.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslVerifyMode};
use openssl::x509::{X509, store::X509StoreBuilder};
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
    let builder = session_builder(config)?;
    loop {
        match runtime.block_on(builder.build()) {
            Ok(session) => return Ok(session),
            Err(e) => match credentials_error(&e) {
                Some(reason) => return Err(refused_credentials(config, &reason)),
                None if backoff.pause_until(deadline, &e) => {}
                None => return Err(unreachable(config, &e.to_string())),
            },
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

fn session_builder(config: &CqlSink) -> Result<SessionBuilder, Failure> {
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
        builder = builder.user(user, config.password.as_deref().unwrap_or_default());
    }
    if let Some(tls) = &config.tls {
        builder = builder.tls_context(Some(tls_context(tls)?));
    }
    Ok(builder)
}

/// The driver compares a certificate with the node's IP address, so the certificate must name that.
fn tls_context(tls: &CqlTls) -> Result<SslConnectorBuilder, Failure> {
    let failed = |e: openssl::error::ErrorStack| Failure::config(format!("sink.cql.tls: {e}"));
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(failed)?;
    if let Some(ca) = &tls.ca {
        let wrong = |e: &dyn std::fmt::Display| Failure::config(format!("sink.cql.tls.ca: {}: {e}", ca.display()));
        let pem = std::fs::read(ca).map_err(|e| wrong(&e))?;
        let authorities = X509::stack_from_pem(&pem).map_err(|e| wrong(&e))?;
        if authorities.is_empty() {
            return Err(wrong(&"the file has no certificate in PEM form"));
        }
        let mut store = X509StoreBuilder::new().map_err(failed)?;
        for authority in authorities {
            store.add_cert(authority).map_err(|e| wrong(&e))?;
        }
        builder.set_cert_store(store.build());
    }
    if let Some((certificate, key)) = &tls.certificate {
        let wrong = |path: &Path, e: &dyn std::fmt::Display| {
            Failure::config(format!("sink.cql.tls.certificate: {}: {e}", path.display()))
        };
        builder.set_certificate_chain_file(certificate).map_err(|e| wrong(certificate, &e))?;
        builder.set_private_key(&*private_key(key)?).map_err(|e| wrong(key, &e))?;
    }
    if !tls.verify {
        builder.set_verify(SslVerifyMode::NONE);
    }
    Ok(builder)
}

/// Reads a private key. One that is encrypted is refused: OpenSSL would ask for its passphrase on the terminal.
fn private_key(path: &Path) -> Result<PKey<Private>, Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::config(format!("sink.cql.tls.key: {}: {e}", path.display()));
    let pem = std::fs::read(path).map_err(|e| wrong(&e))?;
    if memchr::memmem::find(&pem, b"ENCRYPTED").is_some() {
        let how = "the key is encrypted, and there is no key for its passphrase: decrypt it (openssl pkey -in KEY -out PLAIN) and protect the file";
        return Err(wrong(&how));
    }
    PKey::private_key_from_pem(&pem).map_err(|e| wrong(&e))
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
    fn an_encrypted_key_is_refused_and_nobody_is_asked_for_a_passphrase() {
        let key = openssl::rsa::Rsa::generate(2048).expect("there is entropy");
        let (plain, sealed) = (
            key.private_key_to_pem().expect("it is a key"),
            key.private_key_to_pem_passphrase(openssl::symm::Cipher::aes_256_cbc(), b"secret").expect("it is a key"),
        );
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), plain).expect("it is writable");
        private_key(file.path()).expect("it is plain");
        std::fs::write(file.path(), sealed).expect("it is writable");
        let failure = private_key(file.path()).map(drop).expect_err("it is encrypted");
        assert!(
            failure.message.starts_with("sink.cql.tls.key: ") && failure.message.contains("encrypted"),
            "{failure}"
        );
        let failure = private_key(Path::new("/no/such.key")).map(drop).expect_err("it is missing");
        assert!(failure.message.contains("/no/such.key"), "{failure}");
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
