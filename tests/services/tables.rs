//! Tables of the test's database: made and read back, independently of the host's sink.

use futures::TryStreamExt;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Statement;
use scylla::value::{CqlValue, Row};
use serde_json::{Value, json};

/// A session that blocks.
pub(crate) struct Tables {
    runtime: tokio::runtime::Runtime,
    session: Session,
}

/// The seed's table.
pub(crate) const SESSIONS: &str = "sessions (session_id bigint, user_id bigint, pages list<text>, ingestion_time timestamp, \
                                   PRIMARY KEY (session_id, user_id))";

impl Tables {
    /// A session with the node on this port.
    pub(crate) fn connect(port: u16) -> Tables {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("the system has threads");
        let session = runtime.block_on(SessionBuilder::new().known_node(format!("127.0.0.1:{port}")).build());
        Tables { runtime, session: session.expect("the database answers") }
    }

    /// The same as this user, who may have been created a moment ago.
    pub(crate) fn connect_as(port: u16, user: &str, password: &str) -> Tables {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("the system has threads");
        let mut session = None;
        crate::support::host::wait_until("the database knows the user", || {
            let builder = SessionBuilder::new().known_node(format!("127.0.0.1:{port}")).user(user, password);
            session = runtime.block_on(builder.build()).ok();
            session.is_some()
        });
        Tables { runtime, session: session.expect("waited for") }
    }

    /// Runs a statement without a result.
    pub(crate) fn execute(&self, statement: &str) {
        self.try_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// The same; the error is the database's refusal.
    pub(crate) fn try_execute(&self, statement: &str) -> Result<(), String> {
        let done = self.runtime.block_on(self.session.query_unpaged(statement, ()));
        done.map(drop).map_err(|error| error.to_string())
    }

    /// A keyspace with this table in it.
    pub(crate) fn create(&self, keyspace: &str, table: &str) {
        self.create_keyspace(keyspace);
        self.execute(&format!("CREATE TABLE {keyspace}.{table}"));
    }

    /// A keyspace, as the seed's `init.cql` makes it.
    pub(crate) fn create_keyspace(&self, keyspace: &str) {
        self.execute(&format!(
            "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH REPLICATION = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
        ));
    }

    /// The rows of `table` in the form of the NDJSON sink, these columns of them, sorted.
    pub(crate) fn rows(&self, keyspace: &str, table: &str, columns: &[&str]) -> Vec<Value> {
        let statement = format!("SELECT {} FROM {keyspace}.{table}", columns.join(", "));
        let rows = self.whole(&statement).into_iter().map(|row| {
            let mut object = json!({"table": table});
            for (name, value) in columns.iter().zip(row.columns) {
                object[name] = value.map_or(Value::Null, json_value);
            }
            object
        });
        crate::support::rows::sorted(rows.collect())
    }

    /// All that a statement gives, by pages, tried again for a while: a scan is more than a loaded database gives in its time.
    fn whole(&self, statement: &str) -> Vec<Row> {
        let all = async || {
            // Pages are small, since a list that was replaced leaves a tombstone, and a database reads only so many for a page.
            let statement = Statement::new(statement).with_page_size(500);
            let found = self.session.query_iter(statement, ()).await.map_err(|error| error.to_string())?;
            let rows = found.rows_stream::<Row>().expect("any row can be read");
            rows.try_collect::<Vec<Row>>().await.map_err(|error| error.to_string())
        };
        let mut said = String::new();
        for _ in 0..20 {
            match self.runtime.block_on(all()) {
                Ok(rows) => return rows,
                Err(error) => said = error,
            }
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        panic!("{statement}: the table cannot be read: {said}")
    }

    /// The seed's table without the time of writing.
    pub(crate) fn sessions(&self, keyspace: &str) -> Vec<Value> {
        self.rows(keyspace, "sessions", &["session_id", "user_id", "pages"])
    }
}

fn json_value(value: CqlValue) -> Value {
    match value {
        CqlValue::BigInt(n) => json!(n),
        CqlValue::Text(text) => json!(text),
        CqlValue::Boolean(b) => json!(b),
        CqlValue::Timestamp(time) => json!(time.0),
        CqlValue::List(items) => items.into_iter().map(json_value).collect(),
        other => json!(format!("{other:?}")),
    }
}
