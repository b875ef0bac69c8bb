//! `derive(Stored)`: encodes with serde, in the format of `keyfold_sdk::stored`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{DeriveInput, Error, GenericParam, Result};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let name = &input.ident;
    if let Some(parameter) = input.generics.params.first() {
        let message = match parameter {
            GenericParam::Lifetime(_) => {
                "a stored type cannot borrow: use `String` instead of `&str`, and `Vec<u8>` instead of `&[u8]`"
            }
            _ => "a stored type cannot be generic: replace the parameter by a type",
        };
        return Err(Error::new_spanned(parameter, message));
    }
    let write = quote_spanned!(name.span() => ::keyfold_sdk::stored::to_bytes(self, out));
    let read = quote_spanned!(name.span() => ::keyfold_sdk::stored::from_bytes(bytes));
    let encoding = quote_spanned!(name.span() => ::keyfold_sdk::stored::encoding::<#name>());
    Ok(quote! {
        #[automatically_derived]
        impl ::keyfold_sdk::Stored for #name {
            type Read<'a> = #name;

            fn write(&self, out: &mut ::std::vec::Vec<u8>) {
                #write
            }

            fn read(bytes: &[u8]) -> ::core::result::Result<#name, ::std::string::String> {
                #read
            }

            fn encoding() -> ::core::option::Option<::std::string::String> {
                #encoding
            }
        }
    })
}
