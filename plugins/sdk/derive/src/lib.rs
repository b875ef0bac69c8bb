//! The derive macros of `keyfold-sdk`, which re-exports and documents them.
//!
//! Their errors point at the place in the source that must change, and say what to write there.

mod row;
mod stored;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

/// Derives `keyfold_sdk::Row` for a struct that is a row of a table.
#[proc_macro_derive(Row, attributes(row))]
pub fn row(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    row::expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// Derives `keyfold_sdk::Stored`, using serde.
#[proc_macro_derive(Stored)]
pub fn stored(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    stored::expand(&input).unwrap_or_else(Error::into_compile_error).into()
}
