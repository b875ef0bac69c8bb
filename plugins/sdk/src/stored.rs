//! Converts typed values to bytes and back.
//!
//! There are three ways, the simplest first. Use a type that implements [`Stored`]: `str`, `[u8]`, numbers, `bool`, [`Timestamp`], `()`.
//! Derive `Stored` for your own type, beside serde's derives. Or implement it by hand, for a smaller encoding or to read it without a copy.

use std::marker::PhantomData;

use crate::Timestamp;

/// A type that can be written to bytes and read back, possibly without a copy.
///
/// The encoding of value states and list items is stored. If you change it, raise the description's state version: the host refuses a
/// deployment that changes an encoding (see [`encoding`](Stored::encoding)) or cannot read stored state without it. `read` must accept
/// exactly what [`Stored::write`] writes. If it returns an error for stored bytes, that is a bug in the plugin, and the SDK panics.
///
/// # With serde
/// The derive needs the feature `serde`, which is on by default. It uses [postcard]'s encoding: numbers are varints, strings have their length
/// before them, and fields follow each other without names. So if you add, remove or reorder fields, or insert a variant before others,
/// the encoding changes, and with it the state version. The serde attributes `skip_serializing_if`, `untagged` and `flatten` do not work,
/// because values written with them cannot be read back.
///
/// ```
/// use keyfold_sdk::Stored;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize, Stored)]
/// struct Basket {
///     items: Vec<String>,
///     paid: Option<u64>,
/// }
///
/// let basket = Basket { items: vec!["apple".into()], paid: None };
/// let mut bytes = Vec::new();
/// basket.write(&mut bytes);
/// assert_eq!(bytes, b"\x01\x05apple\x00");
/// assert_eq!(Basket::read(&bytes), Ok(basket));
/// assert_eq!(Basket::encoding().unwrap(), "serde {items: [string], paid: u64?}");
/// ```
///
/// # By hand
/// ```
/// use keyfold_sdk::Stored;
///
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// struct Average {
///     sum: i64,
///     count: u32,
/// }
///
/// impl Stored for Average {
///     type Read<'a> = Average;
///
///     fn write(&self, out: &mut Vec<u8>) {
///         self.sum.write(out);
///         self.count.write(out);
///     }
///
///     fn read(bytes: &[u8]) -> Result<Average, String> {
///         let (sum, count) = bytes.split_at_checked(8).ok_or("fewer than 8 bytes")?;
///         Ok(Average { sum: i64::read(sum)?, count: u32::read(count)? })
///     }
///
///     fn encoding() -> Option<String> {
///         Some("sum i64, count u32".into())
///     }
/// }
///
/// let mut bytes = Vec::new();
/// Average { sum: 7, count: 2 }.write(&mut bytes);
/// assert_eq!(bytes.len(), 12);
/// assert_eq!(Average::read(&bytes), Ok(Average { sum: 7, count: 2 }));
/// ```
///
/// [postcard]: https://docs.rs/postcard
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not implement `Stored`",
    label = "cannot be an event's value, a value state or a list item",
    note = "for a type of your own, add `#[derive(serde::Serialize, serde::Deserialize, keyfold_sdk::Stored)]`, or implement `Stored` by hand",
    note = "for a string, use `str` instead of `String`; for bytes, use `[u8]`; if there is nothing to store, use `()`"
)]
pub trait Stored {
    /// The type that reading gives: usually `Self`; for `str`, a `&str` into the stored bytes.
    type Read<'a>;

    /// Appends the encoding to `out`.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads an encoding, which must be all of `bytes`.
    fn read(bytes: &[u8]) -> Result<Self::Read<'_>, String>;

    /// Describes the encoding in a text that changes whenever the encoding does. The host refuses a deployment with another text and the same
    /// state version. `derive(Stored)` lists the fields with their types: `{items: [string], paid: u64?}`, so there a new name of a field
    /// counts as a change too. `None`, the default, is not compared.
    fn encoding() -> Option<String> {
        None
    }
}

/// No bytes.
impl Stored for () {
    type Read<'a> = ();

    fn write(&self, _out: &mut Vec<u8>) {}

    fn read(bytes: &[u8]) -> Result<(), String> {
        if bytes.is_empty() { Ok(()) } else { Err(format!("expected no bytes for (), found {}", bytes.len())) }
    }

    fn encoding() -> Option<String> {
        Some("()".into())
    }
}

impl Stored for str {
    type Read<'a> = &'a str;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &[u8]) -> Result<&str, String> {
        std::str::from_utf8(bytes).map_err(|error| error.to_string())
    }

    fn encoding() -> Option<String> {
        Some("str".into())
    }
}

impl Stored for [u8] {
    type Read<'a> = &'a [u8];

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read(bytes: &[u8]) -> Result<&[u8], String> {
        Ok(bytes)
    }

    fn encoding() -> Option<String> {
        Some("bytes".into())
    }
}

macro_rules! stored_numbers {
    ($($number:ty),*) => {$(
        /// Little-endian.
        impl Stored for $number {
            type Read<'a> = $number;

            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn read(bytes: &[u8]) -> Result<$number, String> {
                let bytes = bytes.try_into().map_err(|_| {
                    format!("expected {} bytes for {}, found {}", size_of::<$number>(), stringify!($number), bytes.len())
                })?;
                Ok(<$number>::from_le_bytes(bytes))
            }

            fn encoding() -> Option<String> {
                Some(stringify!($number).into())
            }
        }
    )*};
}

stored_numbers!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128, f32, f64);

impl Stored for bool {
    type Read<'a> = bool;

    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read(bytes: &[u8]) -> Result<bool, String> {
        match bytes {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(format!("expected [0] or [1] for bool, found {bytes:?}")),
        }
    }

    fn encoding() -> Option<String> {
        Some("bool".into())
    }
}

/// Its milliseconds, little-endian.
impl Stored for Timestamp {
    type Read<'a> = Timestamp;

    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Timestamp, String> {
        i64::read(bytes).map(Timestamp)
    }

    fn encoding() -> Option<String> {
        i64::encoding()
    }
}

/// The bound of `derive(Stored)`, with an error message of its own: serde's message would not mention the derive.
#[cfg(feature = "serde")]
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`derive(Stored)` uses serde, and `{Self}` does not implement serde's traits",
    label = "serde's derives are missing",
    note = "derive all three: `#[derive(serde::Serialize, serde::Deserialize, keyfold_sdk::Stored)]`"
)]
pub trait BySerde: serde::Serialize + serde::de::DeserializeOwned {}

#[cfg(feature = "serde")]
#[diagnostic::do_not_recommend]
impl<T: serde::Serialize + serde::de::DeserializeOwned> BySerde for T {}

/// Writes a value for `derive(Stored)`.
#[cfg(feature = "serde")]
#[doc(hidden)]
pub fn to_bytes<T: BySerde>(value: &T, out: &mut Vec<u8>) {
    struct Append<'a>(&'a mut Vec<u8>);

    impl postcard::ser_flavors::Flavor for Append<'_> {
        type Output = ();

        fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
            self.0.push(byte);
            Ok(())
        }

        fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }

        fn finalize(self) -> postcard::Result<()> {
            Ok(())
        }
    }

    if let Err(error) = postcard::serialize_with_flavor(value, Append(out)) {
        panic!("cannot encode a {}: {error}", std::any::type_name::<T>());
    }
}

/// Reads a value that [`to_bytes`] wrote. Further bytes after it are an error.
#[cfg(feature = "serde")]
#[doc(hidden)]
pub fn from_bytes<T: BySerde>(bytes: &[u8]) -> Result<T, String> {
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|error| error.to_string())?;
    if rest.is_empty() { Ok(value) } else { Err(format!("{} extra bytes after the value", rest.len())) }
}

/// Describes the encoding of [`to_bytes`].
#[cfg(feature = "serde")]
#[doc(hidden)]
pub fn encoding<T: BySerde>() -> Option<String> {
    Some(format!("serde {}", crate::encoding::of::<T>()))
}

/// Reads stored bytes. Panics if they cannot be read, because the plugin itself has written them.
pub(crate) fn read<'a, T: Stored + ?Sized>(what: &str, bytes: &'a [u8]) -> T::Read<'a> {
    match T::read(bytes) {
        Ok(value) => value,
        Err(reason) => {
            panic!("cannot decode {what}: {reason}; was its encoding changed without raising the state version?")
        }
    }
}

/// Receives a value state or list item in its current type, during a migration.
///
/// ```
/// # use keyfold_sdk::{Description, Event, Events, Firing, Key, Mapper, Record};
/// use keyfold_sdk::{Migrated, Stored};
///
/// # struct Plugin;
/// # impl Mapper for Plugin {
/// type Value = u64;
/// type Item = str;
///
/// // In version 1, the value was a u32, and items were bytes.
/// fn migrate_value(&self, version: u32, old: &[u8], new: &mut Migrated<'_, u64>) -> Result<(), String> {
///     match version {
///         1 => new.put(&u32::read(old)?.into()),
///         other => return Err(format!("there is no state version {other}")),
///     }
///     Ok(())
/// }
///
/// fn migrate_item(&self, _version: u32, old: &[u8], new: &mut Migrated<'_, str>) -> Result<(), String> {
///     new.put(&String::from_utf8_lossy(old));
///     Ok(())
/// }
/// #     type Event = ();
/// #     fn describe() -> Description { Description::new("plugin", "1.0.0").state_version(2) }
/// #     fn configure(_: &str) -> Result<Plugin, String> { Ok(Plugin) }
/// #     fn map(&self, _: &Record<'_>, _: &mut Events<'_, Self>) -> Result<(), String> { Ok(()) }
/// #     fn on_event(&self, _: &mut Key<'_, Self>, _: &Event<'_, Self>) -> Result<(), String> { Ok(()) }
/// #     fn on_timer(&self, _: &mut Firing<'_, Self>, _: i64) -> Result<(), String> { Ok(()) }
/// # }
/// # let column = |data: &[u8]| keyfold_sdk::raw::ByteColumn { data: data.to_vec(), ends: vec![data.len() as u32] };
/// # let old = keyfold_sdk::raw::StateBatch { values: column(&[7, 0, 0, 0]), list_items: column(b"a") };
/// # let new = keyfold_sdk::glue::Instance::<Plugin>::configure("{}").unwrap().migrate(1, &old).unwrap();
/// # assert_eq!((new.values.data.len(), new.list_items.data), (8, b"a".to_vec()));
/// ```
pub struct Migrated<'a, T: ?Sized> {
    bytes: &'a mut Vec<u8>,
    put: bool,
    kind: PhantomData<fn(&T)>,
}

impl<'a, T: Stored + ?Sized> Migrated<'a, T> {
    /// Creates a receiver that appends to `bytes`.
    pub(crate) fn new(bytes: &'a mut Vec<u8>) -> Migrated<'a, T> {
        Migrated { bytes, put: false, kind: PhantomData }
    }

    /// Sets the migrated state. Call it exactly once.
    pub fn put(&mut self, state: &T) {
        assert!(!self.put, "`Migrated::put` was called twice for one state: call it exactly once");
        self.put = true;
        state.write(self.bytes);
    }

    /// Returns an error if nothing was put.
    pub(crate) fn done(self) -> Result<(), String> {
        if self.put { Ok(()) } else { Err("`Migrated::put` was not called for a state: call it exactly once".into()) }
    }
}
