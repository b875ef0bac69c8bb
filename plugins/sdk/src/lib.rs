//! Write keyfold plugins in Rust.
//!
//! A plugin is a type that implements [`Mapper`] and one line, `keyfold_sdk::plugin!(Type);`. It is built with cargo alone, as a
//! `cdylib` for `wasm32-unknown-unknown`; the host takes the file as it is.
//!
//! ```
//! use keyfold_sdk::{ColumnType, Description, Event, Events, Firing, Key, Mapper, Record, Table};
//!
//! /// Counts what each key says within a minute of event time.
//! pub struct Counts;
//!
//! impl Mapper for Counts {
//!     type Event = str;
//!     type Value = u64;
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
//!         out.push(word, record.append_time, word);
//!         Ok(())
//!     }
//!
//!     fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
//!         let count = key.value().unwrap_or(0);
//!         key.put(&(count + 1));
//!         if key.timer().is_none() {
//!             key.set_timer(event.time.saturating_add(60_000));
//!         }
//!         Ok(())
//!     }
//!
//!     fn on_timer(&self, key: &mut Firing<'_, Self>, time: i64) -> Result<(), String> {
//!         let word = key.name();
//!         let count = key.value().map_or(0, |count| count as i64);
//!         key.row(0).text("word", word).timestamp("until", time).integer("count", count).end();
//!         key.clear();
//!         Ok(())
//!     }
//! }
//!
//! keyfold_sdk::plugin!(Counts);
//! ```
//!
//! # The law
//! What is said of a record, an event or a firing must be what a fresh instance, given that one alone, would say: batches are cut as the
//! host likes, and cut otherwise in a replay. So: no static variables, no caches in the mapper that show in a result, and
//! [`collections`] instead of std's `HashMap` and `HashSet`, whose order differs from map to map. This `clippy.toml` finds them:
//!
//! ```toml
//! disallowed-types = [
//!     { path = "std::collections::HashMap", reason = "its order differs from map to map", replacement = "keyfold_sdk::collections::HashMap" },
//!     { path = "std::collections::HashSet", reason = "its order differs from set to set", replacement = "keyfold_sdk::collections::HashSet" },
//! ]
//! ```
//!
//! # Errors
//! An `Err` rejects just the record, event or firing that it is given for: the reason goes to the dead letters with it, and whatever the
//! function did before is undone. A rejected firing takes the key's state with it. A panic does the same at a higher price, and its text is kept.
//!
//! Plugins in another form than [`Mapper`] implement [`raw::Guest`] and use [`raw_plugin!`].

mod describe;
mod record;
mod key;
pub mod row;
pub mod cell;
pub mod stored;
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

/// "No timer" and "no watermark" in the contract's columns.
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
/// // In the answer of a plugin that implements `raw::Guest`: all timers are used up.
/// let timers = vec![keyfold_sdk::NONE; batch.timers.len()];
/// # assert!(timers.is_empty());
/// ```
pub const NONE: i64 = i64::MIN;

/// The contract's types and functions as wit-bindgen makes them of `wit/`.
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

/// The contract itself: columns, for what [`Mapper`] cannot say.
pub use bindings::exports::keyfold::mapper::mapper as raw;

/// A plugin's logic: records to events, and a fold of each key's events with one timer per key.
///
/// All three types are written to bytes and read back by [`Stored`]; `str`, `[u8]`, numbers and `()` for "none" have it. The example is at
/// [the top](crate); of a state that has changed, at [`Migrated`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a plugin: it does not implement `Mapper`",
    label = "not a plugin",
    note = "write `impl keyfold_sdk::Mapper for {Self}` with `describe`, `configure`, `map`, `on_event` and `on_timer`"
)]
pub trait Mapper: Sized + 'static {
    /// What an event carries from [`Mapper::map`] to [`Mapper::on_event`].
    type Event: Stored + ?Sized;
    /// A key's value state: read and written whole. Its encoding has the description's state version.
    type Value: Stored + ?Sized;
    /// An item of a key's list state: appended at constant cost, read only when a timer fires.
    type Item: Stored + ?Sized;

    /// Name, version, output tables and configuration schema.
    fn describe() -> Description;

    /// Makes the mapper from its configuration, a JSON document. An error refuses the configuration.
    fn configure(config: &str) -> Result<Self, String>;

    /// Makes events of a record: none, one or several. An error rejects the record.
    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String>;

    /// Folds an event into its key. An error rejects the event and undoes what was done for it.
    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String>;

    /// The key's timer, set for `time`, has fired. A timer set here must be later than `time`. An error rejects the firing, and takes the
    /// key's state with it.
    fn on_timer(&self, key: &mut Firing<'_, Self>, time: i64) -> Result<(), String>;

    /// Reads a value state of a former state version and gives it back as a present one. The default refuses. The example is at
    /// [`Migrated`].
    fn migrate_value(&self, version: u32, old: &[u8], new: &mut Migrated<'_, Self::Value>) -> Result<(), String> {
        let _ = (old, new);
        Err(format!("this plugin does not read value states of state version {version}"))
    }

    /// Reads a list item of a former state version and gives it back as a present one. The default refuses. The example is at
    /// [`Migrated`].
    fn migrate_item(&self, version: u32, old: &[u8], new: &mut Migrated<'_, Self::Item>) -> Result<(), String> {
        let _ = (old, new);
        Err(format!("this plugin does not read list items of state version {version}"))
    }
}

/// Exports a [`Mapper`] as the plugin that this crate is. Natively it expands to little but the entry of `keyfold
/// plugin bench`, so that tests link.
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
        // Before the rest: what is not a mapper is said in a few words.
        #[cfg(target_arch = "wasm32")]
        const _: fn() = $crate::glue::is_mapper::<$mapper>;

        #[cfg(not(target_arch = "wasm32"))]
        #[doc(hidden)]
        #[allow(dead_code, unreachable_pub, reason = "called by the program that `keyfold plugin bench` makes")]
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

/// Says something in the host's log: of a key, in `on_event` and `on_timer`, or in `map`. The level is one of [`Level`]'s; the rest is as in
/// [`format!`].
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
/// # keyfold_sdk::testing::Log::new(0, &[(7, "")]).fold_lawfully::<Plugin>("{}");
/// ```
#[macro_export]
macro_rules! log {
    ($to:expr, $level:ident, $($message:tt)+) => {{
        // First the text, which may be made of the key.
        let message = ::std::format!($($message)+);
        $to.log($crate::Level::$level, message);
    }};
}

/// Exports a type that implements [`raw::Guest`] itself. Expands to nothing but for wasm32.
///
/// ```
/// use keyfold_sdk::raw::{self, ByteColumn, ChangeBatch, EventBatch, FoldBatch, RecordBatch, StateBatch, TextColumn, TimerBatch};
///
/// /// Takes every record, and makes nothing of it.
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
