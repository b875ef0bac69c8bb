//! The table `_keyfold_lanes` of an SQLite file: when each lane was last written, by the timestamps of its owners.

use rusqlite::{Connection, OptionalExtension};

pub(super) fn create_table(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS _keyfold_lanes (lane TEXT PRIMARY KEY, written INTEGER NOT NULL) WITHOUT ROWID",
    )
}

/// Returns whether this is the lane's latest timestamp, and keeps it if it is. Called within the transaction that writes.
pub(super) fn is_latest(connection: &Connection, lane: &str, timestamp: i64) -> rusqlite::Result<bool> {
    let upsert = "INSERT INTO _keyfold_lanes (lane, written) VALUES (?1, ?2) ON CONFLICT (lane) DO UPDATE SET written = ?2 \
                  WHERE written < ?2 RETURNING 1";
    let kept = connection.prepare_cached(upsert)?.query_row((lane, timestamp), |_| Ok(())).optional()?;
    Ok(kept.is_some())
}
