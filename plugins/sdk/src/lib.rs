//! Write keyfold plugins in Rust.
//!
//! A plugin is a type that implements [`Mapper`], exported by one line: `keyfold_sdk::plugin!(Type);`. Its crate has the crate type `cdylib`.
//! Build it with `cargo build --release --target wasm32-unknown-unknown`. The host loads the resulting file directly.
//!
//! ```
//! use keyfold_sdk::{ColumnType, Description, Event, Events, Firing, Key, Mapper, Record, Table};
//!
//! /// Counts how often each word occurs in each minute of event time.
//! pub struct Counts;
//!
//! /// The end of the minute that contains this time.
//! fn until(time: i64) -> i64 {
//!     time - time.rem_euclid(60_000) + 60_000
//! }
//!
//! impl Mapper for Counts {
//!     type Event = ();
//!     type Value = i64;
//!     type Item = ();
//!
//!     fn describe() -> Description {
//!         let table = Table::new("counts").key("word", ColumnType::Text).key("until", ColumnType::Timestamp);
//!         Description::new("counts", "1.0.0").table(table.column("count", ColumnType::Integer))
//!     }
//!
//!     fn configure(_config: &str) -> Result<Counts, String> {
//!         Ok(Counts)
//!     }
//!
//!     fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
//!         let payload = record.payload.ok_or("payload is missing")?;
//!         let word = std::str::from_utf8(payload).map_err(|_| "payload is not UTF-8")?;
//!         // The key is a word in a minute. So an event counts in its own minute, even if the timer of an earlier one has not fired yet.
//!         let time = record.append_time;
//!         out.push(format_args!("{} {word}", until(time)), time, &());
//!         Ok(())
//!     }
//!
//!     fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
//!         let count = key.value().unwrap_or(0);
//!         key.put(&(count + 1));
//!         key.set_timer(until(event.time));
//!         Ok(())
//!     }
//!
//!     fn on_timer(&self, key: &mut Firing<'_, Self>, time: i64) -> Result<(), String> {
//!         let (_, word) = key.name().split_once(' ').ok_or("the key is not a minute and a word")?;
//!         let count = key.value().unwrap_or(0);
//!         key.row(0).text("word", word).timestamp("until", time).integer("count", count).end();
//!         key.clear();
//!         Ok(())
//!     }
//! }
//!
//! keyfold_sdk::plugin!(Counts);
//! # // The second "a" is at the end of the first minute, and counts in the second.
//! # let records = [(10_000, "a"), (60_000, "a"), (61_000, "b"), (200_000, "c")];
//! # let outcome = keyfold_sdk::testing::Log::new(30_000, &records).fold_deterministically::<Counts>("{}");
//! # assert_eq!(outcome.rows["60000 a"], [r#"counts(word="a", until=60000, count=1)"#]);
//! # assert_eq!(outcome.rows["120000 a"], [r#"counts(word="a", until=120000, count=1)"#]);
//! # assert_eq!(outcome.rows["120000 b"], [r#"counts(word="b", until=120000, count=1)"#]);
//! ```
//!
//! # The law: results do not depend on batches
//! What a plugin returns for a record, an event or a firing must be what a fresh instance would return if it were given that one alone.
//! The host chooses the batches, and a replay cuts the log into different ones. So use no static variables, keep nothing in the mapper that
//! changes a result, and use [`collections`] instead of std's `HashMap` and `HashSet`, whose iteration order is random. This `clippy.toml`
//! finds them:
//!
//! ```toml
//! disallowed-types = [
//!     { path = "std::collections::HashMap", reason = "its iteration order is random", replacement = "keyfold_sdk::collections::HashMap" },
//!     { path = "std::collections::HashSet", reason = "its iteration order is random", replacement = "keyfold_sdk::collections::HashSet" },
//! ]
//! ```
//!
//! # Errors
//! An `Err` rejects only the record, event or firing at hand: the host dead-letters it with the reason, and everything that the function
//! did for it is undone. A rejected firing also clears the key's state. A panic has the same effect at a higher cost, because the host
//! repeats the call in smaller batches to find the item at fault. The dead letter's reason is then the panic message with its file and line.
//!
//! A plugin that needs more control than [`Mapper`] gives implements [`raw::Guest`] and uses [`raw_plugin!`].

mod describe;
mod record;
mod key;
pub mod row;
pub mod cell;
pub mod stored;
#[cfg(feature = "serde")]
mod encoding;
mod rows;
mod draft;
mod columns;
pub mod collections;
#[cfg(feature = "serde")]
pub mod config;
pub mod json;
pub mod time;
pub mod glue;
#[doc(hidden)]
pub mod panic;
#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub mod bench;
#[cfg(not(target_arch = "wasm32"))]
mod lane;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use cell::{Json, Timestamp};
#[cfg(feature = "serde")]
pub use config::config;
pub use describe::{Description, Table};
pub use key::{Event, Firing, Items, Key};
pub use keyfold_sdk_derive::{Row, Stored};
pub use raw::ColumnType;
pub use record::{Events, KeyText, Level, Record};
pub use row::{Row, RowBuilder};
pub use stored::{Migrated, Stored};

/// The value that means "no timer" or "no watermark" in the contract's columns.
///
/// ```
/// # let batch = keyfold_sdk::raw::TimerBatch {
/// #     keys: keyfold_sdk::raw::TextColumn { data: vec![], ends: vec![] },
/// #     value_present: vec![],
/// #     values: keyfold_sdk::raw::ByteColumn { data: vec![], ends: vec![] },
/// #     list_ends: vec![],
/// #     list_items: keyfold_sdk::raw::ByteColumn { data: vec![], ends: vec![] },
/// #     timers: vec![],
/// # };
/// // A plugin that implements `raw::Guest` answers `on-timer`, and sets no new timers:
/// let timers = vec![keyfold_sdk::NO_TIME; batch.timers.len()];
/// # assert!(timers.is_empty());
/// ```
pub const NO_TIME: i64 = i64::MIN;

/// The contract's types and functions, generated by wit-bindgen from `wit/`.
#[allow(missing_docs, unreachable_pub, clippy::too_many_lines, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        world: "plugin",
        path: "wit",
        additional_derives: [PartialEq, Clone],
        pub_export_macro: true,
        export_macro_name: "export_plugin",
        default_bindings_module: "keyfold_sdk::bindings",
    });
}

/// The contract's own types and functions, in columns, for plugins that cannot be written as a [`Mapper`].
pub use bindings::exports::keyfold::mapper::mapper as raw;

/// A plugin's logic: it turns records into events, and folds the events of each key, with one timer per key.
///
/// [`Stored`] converts all three types to bytes and back. Use `()` for a type that the plugin does not need. For an example, see
/// [the crate's documentation](crate); for one with migration, see [`Migrated`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a plugin: it does not implement `Mapper`",
    label = "not a plugin",
    note = "add `impl keyfold_sdk::Mapper for {Self}` with `describe`, `configure`, `map`, `on_event` and `on_timer`"
)]
pub trait Mapper: Sized + 'static {
    /// The value that an event carries from [`Mapper::map`] to [`Mapper::on_event`].
    type Event: Stored + ?Sized;
    /// A key's value state, read and written as a whole. If its encoding changes, raise the description's state version.
    type Value: Stored + ?Sized;
    /// An item of a key's list state, appended at constant cost and read only when a timer fires. If its encoding changes, raise the
    /// description's state version.
    type Item: Stored + ?Sized;

    /// Returns the plugin's name, version, output tables and configuration schema.
    fn describe() -> Description;

    /// Creates the mapper from its configuration, a JSON document. An error rejects the configuration.
    fn configure(config: &str) -> Result<Self, String>;

    /// Turns a record into events: none, one or several. An error rejects the record.
    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String>;

    /// Folds an event into its key. An error rejects the event and undoes what was done for it.
    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String>;

    /// Handles the key's timer, which was set for `time` and fires now. A timer set here must be later than `time`. An error rejects the
    /// firing and clears the key's state.
    fn on_timer(&self, key: &mut Firing<'_, Self>, time: i64) -> Result<(), String>;

    /// Converts a value state from an older state version to the current one. The default returns an error. For an example, see
    /// [`Migrated`].
    fn migrate_value(&self, version: u32, old: &[u8], new: &mut Migrated<'_, Self::Value>) -> Result<(), String> {
        let _ = (old, new);
        Err(format!(
            "cannot migrate a value state of state version {version}: the plugin does not implement `migrate_value`"
        ))
    }

    /// Converts a list item from an older state version to the current one. The default returns an error. For an example, see
    /// [`Migrated`].
    fn migrate_item(&self, version: u32, old: &[u8], new: &mut Migrated<'_, Self::Item>) -> Result<(), String> {
        let _ = (old, new);
        Err(format!(
            "cannot migrate a list item of state version {version}: the plugin does not implement `migrate_item`"
        ))
    }
}

/// Exports a [`Mapper`] as this crate's plugin. Natively, it exports nothing, so that tests link; it only defines the entry point for
/// `keyfold plugin bench`.
///
/// ```
/// # use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record};
/// pub struct Plugin;
/// # impl Mapper for Plugin {
/// #     type Event = ();
/// #     type Value = ();
/// #     type Item = ();
/// #     fn describe() -> Description { Description::new("plugin", "1.0.0") }
/// #     fn configure(_: &str) -> Result<Plugin, String> { Ok(Plugin) }
/// #     fn map(&self, _: &Record<'_>, _: &mut Events<'_, Self>) -> Result<(), String> { Ok(()) }
/// #     fn on_event(&self, _: &mut Key<'_, Self>, _: &Event<'_, Self>) -> Result<(), String> { Ok(()) }
/// #     fn on_timer(&self, _: &mut Firing<'_, Self>, _: i64) -> Result<(), String> { Ok(()) }
/// # }
///
/// keyfold_sdk::plugin!(Plugin);
/// ```
#[macro_export]
macro_rules! plugin {
    ($mapper:ty) => {
        // Comes first, so that the compiler reports a missing `Mapper` once and briefly.
        #[cfg(target_arch = "wasm32")]
        const _: fn() = $crate::glue::is_mapper::<$mapper>;

        #[cfg(not(target_arch = "wasm32"))]
        #[doc(hidden)]
        #[allow(dead_code, unreachable_pub, reason = "called by the program that `keyfold plugin bench` builds")]
        pub fn keyfold_bench() {
            $crate::bench::main::<$mapper>();
        }

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::raw;

            ::std::thread_local! {
                static INSTANCE: ::std::cell::OnceCell<$crate::glue::Instance<$mapper>> =
                    const { ::std::cell::OnceCell::new() };
            }

            struct KeyfoldExports;

            impl KeyfoldExports {
                fn with<R>(
                    call: impl FnOnce(&$crate::glue::Instance<$mapper>) -> Result<R, String>,
                ) -> Result<R, String> {
                    INSTANCE.with(|instance| call(instance.get().ok_or("configure was not called")?))
                }
            }

            impl raw::Guest for KeyfoldExports {
                fn describe() -> raw::Description {
                    $crate::panic::keep_text();
                    $crate::glue::describe::<$mapper>()
                }

                fn configure(config: String) -> Result<(), String> {
                    $crate::panic::keep_text();
                    let instance = $crate::glue::Instance::configure(&config)?;
                    INSTANCE.with(|cell| cell.set(instance)).map_err(|_| String::from("configure was called twice"))
                }

                fn map_records(records: raw::RecordBatch) -> Result<raw::EventBatch, String> {
                    Self::with(|instance| Ok(instance.map_records(&records)))
                }

                fn fold(batch: raw::FoldBatch) -> Result<raw::ChangeBatch, String> {
                    Self::with(|instance| Ok(instance.fold(&batch)))
                }

                fn on_timer(batch: raw::TimerBatch) -> Result<raw::ChangeBatch, String> {
                    Self::with(|instance| Ok(instance.on_timer(&batch)))
                }

                fn migrate(state_version: u32, states: raw::StateBatch) -> Result<raw::StateBatch, String> {
                    Self::with(|instance| instance.migrate(state_version, &states))
                }
            }

            $crate::raw_plugin!(KeyfoldExports);
        };
    };
}

/// Writes a line to the host's log. The first argument is the key in `on_event` and `on_timer`, and the events in `map`. The second is a
/// variant of [`Level`]. The rest is as in [`format!`].
///
/// ```
/// # use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record};
/// # struct Plugin;
/// # impl Mapper for Plugin {
/// #     type Event = ();
/// #     type Value = ();
/// #     type Item = ();
/// #     fn describe() -> Description { Description::new("plugin", "1.0.0") }
/// #     fn configure(_: &str) -> Result<Plugin, String> { Ok(Plugin) }
/// fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
///     keyfold_sdk::log!(out, Debug, "offset {} of partition {}", record.offset, record.partition);
///     out.push("ann", record.append_time, &());
///     Ok(())
/// }
///
/// fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
///     let late = event.append_time - event.time;
///     keyfold_sdk::log!(key, Info, "{} is {late} ms late", key.name());
///     Ok(())
/// }
/// #     fn on_timer(&self, key: &mut Firing<'_, Self>, time: i64) -> Result<(), String> {
/// #         keyfold_sdk::log!(key, Error, "{} has {} items", key.name(), key.items().len());
/// #         Ok(())
/// #     }
/// # }
/// # keyfold_sdk::testing::Log::new(0, &[(7, "")]).fold_deterministically::<Plugin>("{}");
/// ```
#[macro_export]
macro_rules! log {
    ($to:expr, $level:ident, $($message:tt)+) => {{
        // Formatted first, because the arguments may borrow the key.
        let message = ::std::format!($($message)+);
        $to.log($crate::Level::$level, message);
    }};
}

/// Exports a type that implements [`raw::Guest`] directly. Natively, it expands to nothing.
///
/// ```
/// use keyfold_sdk::raw::{self, ByteColumn, ChangeBatch, EventBatch, FoldBatch, RecordBatch, StateBatch, TextColumn, TimerBatch};
///
/// /// Accepts every record and produces no events.
/// struct Nothing;
///
/// impl raw::Guest for Nothing {
///     fn describe() -> raw::Description {
///         keyfold_sdk::Description::new("nothing", "1.0.0").into_raw()
///     }
///
///     fn configure(_config: String) -> Result<(), String> {
///         Ok(())
///     }
///
///     fn map_records(_records: RecordBatch) -> Result<EventBatch, String> {
///         Ok(EventBatch {
///             records: vec![],
///             keys: TextColumn { data: vec![], ends: vec![] },
///             event_times: vec![],
///             values: ByteColumn { data: vec![], ends: vec![] },
///             rejections: vec![],
///             logs: vec![],
///         })
///     }
///
///     fn fold(_batch: FoldBatch) -> Result<ChangeBatch, String> {
///         Err("there are no events".into())
///     }
///
///     fn on_timer(_batch: TimerBatch) -> Result<ChangeBatch, String> {
///         Err("there are no timers".into())
///     }
///
///     fn migrate(_version: u32, _states: StateBatch) -> Result<StateBatch, String> {
///         Err("there is no state".into())
///     }
/// }
///
/// keyfold_sdk::raw_plugin!(Nothing);
/// ```
#[macro_export]
macro_rules! raw_plugin {
    ($guest:ident) => {
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::export_plugin!($guest with_types_in $crate::bindings);
    };
}
