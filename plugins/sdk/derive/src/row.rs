//! `derive(Row)`: the fields of a struct are the columns of a table, in the same order.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Field, Fields, GenericParam, LitStr, Result, Type};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    only_lifetimes(input)?;
    let table = table(input)?;
    let columns = columns(input)?;
    let shape = columns.iter().map(Column::shape);
    let cells = columns.iter().map(|column| {
        // If this line does not compile, the field's type is wrong: let the error point at the type.
        let place = column.field.ty.span();
        let mut field = column.field.ident.clone();
        field.iter_mut().for_each(|name| name.set_span(place));
        quote_spanned!(place => cells.put(&self.#field);)
    });
    let name = &input.ident;
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #generics ::keyfold_sdk::Row for #name #arguments #bounds {
            const SHAPE: &'static ::keyfold_sdk::row::Shape =
                &::keyfold_sdk::row::Shape { table: #table, columns: &[#(#shape),*] };

            fn write_row(&self, cells: &mut ::keyfold_sdk::row::Cells<'_>) {
                #(#cells)*
            }
        }
    })
}

/// A field and its column.
struct Column<'a> {
    field: &'a Field,
    name: LitStr,
    key: bool,
}

impl Column<'_> {
    /// Returns the code for the column. Errors about the field's type point at the type.
    fn shape(&self) -> TokenStream {
        let (name, kind) = (&self.name, &self.field.ty);
        if self.key {
            quote_spanned!(kind.span() => ::keyfold_sdk::row::Column::key::<#kind>(#name))
        } else {
            quote_spanned!(kind.span() => ::keyfold_sdk::row::Column::new::<#kind>(#name))
        }
    }
}

fn only_lifetimes(input: &DeriveInput) -> Result<()> {
    match input.generics.params.iter().find(|parameter| !matches!(parameter, GenericParam::Lifetime(_))) {
        None => Ok(()),
        Some(parameter) => Err(Error::new_spanned(
            parameter,
            "a row cannot be generic over types, because each column has one type: replace the parameter by a type (lifetimes are allowed)",
        )),
    }
}

fn table(input: &DeriveInput) -> Result<LitStr> {
    let mut table = None;
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("row")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("table") {
                return Err(meta.error("unknown attribute for a struct: the only one is `#[row(table = \"..\")]`"));
            }
            table = Some(meta.value()?.parse::<LitStr>()?);
            Ok(())
        })?;
    }
    table.ok_or_else(|| {
        Error::new_spanned(
            &input.ident,
            format!("the table's name is missing: add `#[row(table = \"..\")]` above `struct {}`", input.ident),
        )
    })
}

fn columns(input: &DeriveInput) -> Result<Vec<Column<'_>>> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "a row must be a struct, whose fields are the columns"));
    };
    let Fields::Named(fields) = &data.fields else {
        return Err(Error::new_spanned(
            &input.ident,
            "a row must have named fields, whose names are the names of the columns",
        ));
    };
    let columns = fields.named.iter().map(column).collect::<Result<Vec<_>>>()?;
    for (i, column) in columns.iter().enumerate() {
        if columns[..i].iter().any(|before| before.name.value() == column.name.value()) {
            return Err(Error::new(column.name.span(), format!("two columns are named {:?}", column.name.value())));
        }
    }
    if !columns.iter().any(|column| column.key) {
        return Err(Error::new_spanned(
            &input.ident,
            "the primary key is missing: add `#[row(key)]` above each field that is part of it",
        ));
    }
    Ok(columns)
}

fn column(field: &Field) -> Result<Column<'_>> {
    let ident = field.ident.as_ref().expect("named fields have names");
    let mut column = Column { field, name: LitStr::new(&ident.unraw().to_string(), ident.span()), key: false };
    for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("row")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("key") {
                column.key = true;
            } else if meta.path.is_ident("name") {
                column.name = meta.value()?.parse()?;
            } else {
                return Err(
                    meta.error("unknown attribute for a field: use `#[row(key)]`, `#[row(name = \"..\")]` or both")
                );
            }
            Ok(())
        })?;
    }
    match &field.ty {
        kind if column.key && is_option(kind) => Err(Error::new_spanned(
            kind,
            "a column of the primary key cannot be null: remove the `Option` or the `#[row(key)]`",
        )),
        _ => Ok(column),
    }
}

/// Recognizes `Option` by its name. For a type alias of it, the compiler reports an error that is less clear.
fn is_option(kind: &Type) -> bool {
    matches!(kind, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Option"))
}
