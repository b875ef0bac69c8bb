//! How typed values become bytes and come back.

use std::marker::PhantomData;

/// A type that can be written to bytes and read back, possibly in place.
///
/// The encoding of a value state or list item is stored: a change of it raises the description's state version. Reading takes exactly
/// what [`Stored::write`] wrote; what it refuses can only be a bug, and becomes a panic that says so.
pub trait Stored {
    /// What reading gives: often `Self`, for `str` a `&str` in place.
    type Read<'a>;

    /// Appends the encoding.
    fn write(&self, out: &mut Vec<u8>);

    /// Takes an encoding, all of it.
    fn read(bytes: &[u8]) -> Result<Self::Read<'_>, String>;
}

/// "None": no bytes.
impl Stored for () {
    type Read<'a> = ();

    fn write(&self, _out: &mut Vec<u8>) {}

    fn read(bytes: &[u8]) -> Result<(), String> {
        if bytes.is_empty() { Ok(()) } else { Err(format!("{} bytes where none belong", bytes.len())) }
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
}

impl Stored for [u8] {
    type Read<'a> = &'a [u8];

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read(bytes: &[u8]) -> Result<&[u8], String> {
        Ok(bytes)
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
                    format!("{} bytes, not the {} of {}", bytes.len(), size_of::<$number>(), stringify!($number))
                })?;
                Ok(<$number>::from_le_bytes(bytes))
            }
        }
    )*};
}

stored_numbers!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128, f32, f64);

/// Reads state, or panics with what is wrong with it: its encoding is the plugin's own.
pub(crate) fn read<'a, T: Stored + ?Sized>(what: &str, bytes: &'a [u8]) -> T::Read<'a> {
    match T::read(bytes) {
        Ok(value) => value,
        Err(reason) => panic!("{what} cannot be read back: {reason}"),
    }
}

/// Where a migrated state goes.
pub struct Migrated<'a, T: ?Sized> {
    bytes: &'a mut Vec<u8>,
    put: bool,
    kind: PhantomData<fn(&T)>,
}

impl<'a, T: Stored + ?Sized> Migrated<'a, T> {
    /// Appends to `bytes` what is put.
    pub(crate) fn new(bytes: &'a mut Vec<u8>) -> Migrated<'a, T> {
        Migrated { bytes, put: false, kind: PhantomData }
    }

    /// Gives the state in its present form; exactly once.
    pub fn put(&mut self, state: &T) {
        assert!(!self.put, "a state was migrated into two");
        self.put = true;
        state.write(self.bytes);
    }

    /// Refuses a migration that put nothing.
    pub(crate) fn done(self) -> Result<(), String> {
        if self.put { Ok(()) } else { Err("a state was migrated into none".into()) }
    }
}
