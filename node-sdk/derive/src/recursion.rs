//! Types that contain themselves.
//!
//! rkyv puts a bound on the type of every field, and for a type that contains itself these bounds go round in
//! circles. Its remedy is to omit the bound on such fields and to say by hand what the fields need from a
//! serializer, a deserializer and a validator. Which fields those are can be seen here when a field names the
//! type itself; so the attributes are added, unless the user did it.

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::{ToTokens as _, quote};
use syn::{Attribute, DeriveInput, Field, Ident, Path, Type, parse_quote};

use crate::attributes::{UserAttributes, fields_mut, mentions};

/// Writes the name of the type for `Self` in the types of fields: rkyv copies those into the archived type,
/// where `Self` would be that.
pub(crate) fn name_self(input: &mut DeriveInput) {
    let (_, generics, _) = input.generics.split_for_impl();
    let ident = &input.ident;
    let name = quote!(#ident #generics);
    for field in fields_mut(&mut input.data) {
        let tokens = field.ty.to_token_stream();
        if mentions(tokens.clone(), "Self") {
            field.ty = Type::Verbatim(replace(tokens, &name));
        }
    }
}

fn replace(tokens: TokenStream, name: &TokenStream) -> TokenStream {
    tokens
        .into_iter()
        .flat_map(|token| match token {
            TokenTree::Ident(ident) if ident == "Self" => name.clone(),
            TokenTree::Group(group) => {
                let mut replaced = Group::new(group.delimiter(), replace(group.stream(), name));
                replaced.set_span(group.span());
                TokenTree::Group(replaced).into()
            }
            other => other.into(),
        })
        .collect()
}

/// Whether there must be no bound on the type of the field: it leads back to the type, or the user said so.
pub(crate) fn bounds_are_omitted(ident: &Ident, field: &Field) -> bool {
    leads_back(ident, field) || is_marked(field)
}

/// As far as the name tells.
fn leads_back(ident: &Ident, field: &Field) -> bool {
    mentions(field.ty.to_token_stream(), &ident.to_string())
}

fn is_marked(field: &Field) -> bool {
    let of_rkyv = |attribute: &&Attribute| attribute.path().is_ident("rkyv");
    field
        .attrs
        .iter()
        .filter(of_rkyv)
        .any(|attribute| mentions(attribute.meta.to_token_stream(), "omit_bounds"))
}

/// Marks the fields that lead back, and gives the attributes that the item needs for them.
pub(crate) fn omit_bounds(input: &mut DeriveInput, user: &UserAttributes, hivemind: &Path) -> TokenStream {
    let ident = input.ident.clone();
    let mut recursive = false;
    for field in fields_mut(&mut input.data) {
        if leads_back(&ident, field) && !is_marked(field) {
            field.attrs.push(parse_quote!(#[rkyv(omit_bounds)]));
        }
        recursive |= is_marked(field);
    }
    if !recursive {
        return TokenStream::new();
    }
    let rkyv = quote!(#hivemind::rkyv);
    let source = |parameter: TokenStream| quote!(<#parameter as #rkyv::rancor::Fallible>::Error: #rkyv::rancor::Source);
    let mut attributes = TokenStream::new();
    if !user.serialize_bounds {
        let source = source(quote!(__S));
        attributes.extend(
            quote!(#[rkyv(serialize_bounds(__S: #rkyv::ser::Writer + #rkyv::ser::Allocator, #source))]),
        );
    }
    if !user.deserialize_bounds {
        let source = source(quote!(__D));
        attributes.extend(quote!(#[rkyv(deserialize_bounds(#source))]));
    }
    if !user.bytecheck {
        let source = source(quote!(__C));
        attributes
            .extend(quote!(#[rkyv(bytecheck(bounds(__C: #rkyv::validation::ArchiveContext, #source)))]));
    }
    attributes
}
