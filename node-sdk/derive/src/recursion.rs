//! Types that contain themselves.
//!
//! rkyv puts a bound on the type of every field, and for a type that contains itself these bounds go round in
//! circles. Its remedy is to omit the bound on such fields and to say by hand what the fields need from a
//! serializer, a deserializer and a validator. Which fields those are can be seen here when a field names the type
//! itself; so the attributes are added, unless the user did it.

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::{ToTokens as _, quote};
use syn::{DeriveInput, Path, Type, parse_quote};

use crate::attributes::{UserAttributes, fields_mut, mentions};

/// Writes the name of the type for `Self` in the types of fields: rkyv copies those into the archived type, where
/// `Self` would be that.
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

/// Whether a field of this type leads back to the type, as far as the name tells.
pub(crate) fn is_recursive(ident: &syn::Ident, field: &Type) -> bool {
    mentions(field.to_token_stream(), &ident.to_string())
}

/// Marks the fields that lead back, and gives the attributes that the item needs for them.
pub(crate) fn omit_bounds(input: &mut DeriveInput, user: &UserAttributes, hivemind: &Path) -> TokenStream {
    let ident = input.ident.clone();
    let mut recursive = false;
    for field in fields_mut(&mut input.data) {
        if !is_recursive(&ident, &field.ty) {
            continue;
        }
        recursive = true;
        let marked = field.attrs.iter().any(|attribute| {
            attribute.path().is_ident("rkyv") && mentions(attribute.meta.to_token_stream(), "omit_bounds")
        });
        if !marked {
            field.attrs.push(parse_quote!(#[rkyv(omit_bounds)]));
        }
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
