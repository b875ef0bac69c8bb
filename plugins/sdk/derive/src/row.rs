//! `derive(Row)`: the columns of a table are the fields of a struct, in their order.

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
        // What is wrong is the type: an error about this line points at it.
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

/// A field, as a column.
struct Column<'a> {
    field: &'a Field,
    name: LitStr,
    key: bool,
}

impl Column<'_> {
    /// Errors about the field's type point at it.
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
            "a table has one type per column: put the type in the place of the parameter (lifetimes are welcome)",
        )),
    }
}

fn table(input: &DeriveInput) -> Result<LitStr> {
    let mut table = None;
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("row")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("table") {
                return Err(meta.error("a struct says `#[row(table = \"..\")]`, and nothing else"));
            }
            table = Some(meta.value()?.parse::<LitStr>()?);
            Ok(())
        })?;
    }
    table.ok_or_else(|| {
        Error::new_spanned(
            &input.ident,
            format!("which table? write `#[row(table = \"..\")]` above `struct {}`", input.ident),
        )
    })
}

fn columns(input: &DeriveInput) -> Result<Vec<Column<'_>>> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "a row is a struct: each of its fields is a column"));
    };
    let Fields::Named(fields) = &data.fields else {
        return Err(Error::new_spanned(&input.ident, "a row's fields have names: each is the name of its column"));
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
            "no field is in the primary key: write `#[row(key)]` above each that tells this row from others",
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
                return Err(meta.error("a field says `#[row(key)]`, `#[row(name = \"..\")]`, or both"));
            }
            Ok(())
        })?;
    }
    match &field.ty {
        kind if column.key && is_option(kind) => Err(Error::new_spanned(
            kind,
            "a column of the primary key always has a value: take the `Option` off, or `#[row(key)]`",
        )),
        _ => Ok(column),
    }
}

/// As far as it can be seen: an alias is found by the compiler, in worse words.
fn is_option(kind: &Type) -> bool {
    matches!(kind, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Option"))
}
