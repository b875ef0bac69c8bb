//! Looking at a keyspace and its tables, and preparing their upserts. Owns the questions to the system tables; [`super::schema`] judges the
//! answers. Errors in the form of text are outages.

use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;

use crate::config::{CqlSink, most_like};
use crate::failure::{Check, Failure};
use crate::row::Table;
use crate::sink::cql::schema::{RealColumn, create_table, fit, insert, read_nothing, readable, write_nothing};
use crate::sink::cql::session::query_system;
use crate::sink::cql::subject;
use crate::sink::cql::write::{is_for_lack_of_a_right, is_refusal};
use crate::symptom::Symptom;

/// What was found, and one upsert per table if all fit.
pub(super) struct Inspection {
    pub(super) checks: Vec<Check>,
    pub(super) upserts: Vec<PreparedStatement>,
}

/// Looks at keyspace and tables. What is missing or does not fit is among the checks.
pub(super) async fn inspect(session: &Session, config: &CqlSink, tables: &[Table]) -> Result<Inspection, String> {
    let mut found = Inspection { checks: vec![cluster(session, config).await?], upserts: Vec::new() };
    let keyspace = &config.keyspace;
    let select = "SELECT keyspace_name FROM system_schema.keyspaces";
    let keyspaces: Vec<(String,)> = query_system(session, select, &[]).await?;
    let subject = format!("keyspace {keyspace}");
    if !keyspaces.iter().any(|(name,)| name == keyspace) {
        let message = format!(
            "keyspace {keyspace} does not exist on {}{}; create it and its tables: {}",
            config.nodes.join(", "),
            hint(keyspace, &keyspaces),
            tables.iter().map(|t| create_table(keyspace, t, &config.now)).collect::<Vec<_>>().join("; ")
        );
        let refused = Check::refused(subject, Failure::outside(message));
        found.checks.push(refused.of(Symptom::KeyspaceMissing));
        return Ok(found);
    }
    found.checks.push(Check::fine(subject, "exists"));
    for table in tables {
        let subject = format!("table {keyspace}.{}", table.name);
        match inspect_table(session, config, table).await? {
            Ok((detail, upsert)) => {
                found.checks.push(Check::fine(subject, detail));
                found.upserts.push(upsert);
            }
            Err((symptom, failure)) => found.checks.push(Check::refused(subject, failure).of(symptom)),
        }
    }
    Ok(found)
}

/// Names the one of these that is most like a name that does not exist, if one is. Names that differ in case only are the most alike: CQL
/// turns names without quotes into lower case, and keyfold does not.
fn hint(name: &str, others: &[(String,)]) -> String {
    let others = others.iter().map(|(other,)| (other.to_lowercase(), other.clone()));
    let nearest = most_like(&name.to_lowercase(), 0.7, others);
    nearest.map(|nearest| format!(" (did you mean {nearest}?)")).unwrap_or_default()
}

async fn inspect_table(
    session: &Session,
    config: &CqlSink,
    table: &Table,
) -> Result<Result<(String, PreparedStatement), (Symptom, Failure)>, String> {
    let keyspace = &config.keyspace;
    let misfit = |failure| Ok(Err((Symptom::TableMisfit, failure)));
    let Some(real) = real_columns(session, keyspace, &table.name).await? else {
        let select = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
        let others: Vec<(String,)> = query_system(session, select, &[keyspace]).await?;
        let message = format!(
            "table {keyspace}.{} does not exist{}; create it: {}",
            table.name,
            hint(&table.name, &others),
            create_table(keyspace, table, &config.now)
        );
        return Ok(Err((Symptom::TableMissing, Failure::outside(message))));
    };
    let detail = match fit(keyspace, table, &config.now, &real) {
        Ok(detail) => detail,
        Err(failure) => return misfit(failure),
    };
    match session.prepare(insert(keyspace, table, &config.now, &real)).await {
        Ok(mut upsert) => {
            if let Some((right, why)) = missing_right(session, keyspace, &table.name, &real).await {
                return Ok(Err((Symptom::RightMissing, lacks(config, &table.name, right, why))));
            }
            upsert.set_is_idempotent(true);
            Ok(Ok((detail, upsert)))
        }
        Err(e) if is_refusal(&e) => misfit(cannot_prepare(keyspace, &table.name, &e)),
        Err(e) => Err(e.to_string()),
    }
}

/// Returns the right on a table that this user lacks, and what needs it. A database checks rights when it executes a statement and not when
/// it prepares one, so two statements are executed that read and write nothing: none but a refusal for lack of a right is of interest.
async fn missing_right(
    session: &Session,
    keyspace: &str,
    table: &str,
    real: &[RealColumn],
) -> Option<(&'static str, &'static str)> {
    let probes = [
        (write_nothing(keyspace, table, real), "MODIFY", "rows are written"),
        (
            read_nothing(keyspace, table, real),
            "SELECT",
            "a deployment reads the rows that it replaces, for a withdrawal",
        ),
    ];
    for (statement, right, why) in probes {
        if session.query_unpaged(statement, ()).await.is_err_and(|error| is_for_lack_of_a_right(&error)) {
            return Some((right, why));
        }
    }
    None
}

fn lacks(config: &CqlSink, table: &str, right: &str, why: &str) -> Failure {
    let [keyspace, table] = [&*config.keyspace, table].map(readable);
    let user = readable(config.user.as_deref().unwrap_or("anonymous"));
    Failure::outside(format!(
        "user {user} lacks the right {right} on table {keyspace}.{table} ({why}); grant it: GRANT {right} ON {keyspace}.{table} TO {user}"
    ))
}

/// The failure of a statement that the database refuses to prepare.
pub(super) fn cannot_prepare(keyspace: &str, table: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::outside(format!("cannot prepare a statement for table {keyspace}.{table}: {error}"))
}

/// Returns the columns of a table, the partition key first and in its order; none if there is no such table.
pub(super) async fn real_columns(
    session: &Session,
    keyspace: &String,
    table: &String,
) -> Result<Option<Vec<RealColumn>>, String> {
    let select = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
    let tables: Vec<(String,)> = query_system(session, select, &[keyspace, table]).await?;
    if tables.is_empty() {
        return Ok(None);
    }
    let select = "SELECT column_name, kind, type, position FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?";
    let mut columns: Vec<(String, String, String, i32)> = query_system(session, select, &[keyspace, table]).await?;
    columns.sort_by_key(|(_, kind, _, position)| (kind != "partition_key", *position));
    let real = |(name, kind, cql_type, _)| RealColumn { name, kind, cql_type };
    Ok(Some(columns.into_iter().map(real).collect()))
}

async fn cluster(session: &Session, config: &CqlSink) -> Result<Check, String> {
    let select = "SELECT cluster_name, release_version FROM system.local";
    let local: Vec<(String, String)> = query_system(session, select, &[]).await?;
    let nodes = session.get_cluster_state().get_nodes_info().len();
    let (name, version) = local.into_iter().next().unwrap_or_default();
    Ok(Check::fine(
        subject(config),
        format!("cluster {name}, version {version}, {nodes} node(s), consistency {}", config.consistency),
    ))
}

#[cfg(test)]
mod tests {
    use super::{hint, lacks};
    use crate::config::CqlSink;

    #[test]
    fn the_statement_that_grants_a_right_quotes_names() {
        let config = CqlSink {
            nodes: Vec::new(),
            keyspace: "Shop".to_owned(),
            now: Vec::new(),
            user: Some("fold\"; --".to_owned()),
            password: None,
            password_file: None,
            tls: None,
            consistency: "ONE".to_owned(),
            in_flight: 1,
        };
        let said = lacks(&config, "select", "MODIFY", "rows are written").message;
        assert!(said.ends_with("GRANT MODIFY ON \"Shop\".\"select\" TO \"fold\"\"; --\""), "{said}");
    }

    #[test]
    fn a_name_that_is_like_one_that_exists_is_named() {
        let names = ["system", "clicks", "other"].map(|name| (name.to_owned(),));
        assert_eq!(hint("Clicks", &names), " (did you mean clicks?)");
        assert_eq!(hint("click", &names), " (did you mean clicks?)");
        assert_eq!(hint("sessions", &names), "");
        assert_eq!(hint("sessions", &[]), "");
    }
}
