//! The derive macros of `keyfold-sdk`, which re-exports them and says in its own documentation what they do.
//!
//! What they refuse, they refuse at the place in the source that is to be changed, and say what to write there.

mod row;
mod stored;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

/// `keyfold_sdk::Row`: a struct as the rows of a table.
#[proc_macro_derive(Row, attributes(row))]
pub fn row(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    row::expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// `keyfold_sdk::Stored`, by serde.
#[proc_macro_derive(Stored)]
pub fn stored(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    stored::expand(&input).unwrap_or_else(Error::into_compile_error).into()
}
