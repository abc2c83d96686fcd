//! The code that describes the type, and the `Debug` of its archived form.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{
    Data, DataEnum, DeriveInput, Fields, GenericParam, Generics, Ident, Path, parse_quote,
    parse_quote_spanned,
};

use crate::Debug;
use crate::attributes::{UserAttributes, fields};
use crate::recursion::bounds_are_omitted;

/// `impl Describe`.
///
/// It demands of every field type that it can be described, in its head rather than in its body, and stands
/// before the type: so the compiler's first word about a field that is no message is about messages, at that
/// field, and what it then says about rkyv comes second.
pub(crate) fn implementation(input: &DeriveInput, hivemind: &Path) -> TokenStream {
    let schema = quote!(#hivemind::schema);
    let ident = &input.ident;
    let name = ident.unraw().to_string();
    let mut generics = input.generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(#schema::Describe));
    }
    let predicates = &mut generics.make_where_clause().predicates;
    for field in fields(&input.data).into_iter().filter(|field| !bounds_are_omitted(&input.ident, field)) {
        let of = &field.ty;
        let schema = respanned(&schema, of.span());
        predicates.push(parse_quote_spanned!(of.span()=> #of: #schema::Describe));
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let arguments = arguments(&input.generics);
    let (method, content) = match &input.data {
        Data::Struct(data) => (format_ident!("structure"), described_fields(&data.fields, &schema)),
        Data::Enum(data) => (format_ident!("enumeration"), described_variants(data, &schema)),
        // `check::parse_item` refused it.
        Data::Union(_) => return TokenStream::new(),
    };
    quote! {
        #[automatically_derived]
        #[allow(trivial_bounds, unused_qualifications)]
        impl #impl_generics #schema::Describe for #ident #type_generics #where_clause {
            fn describe(builder: &mut #schema::SchemaBuilder) -> #schema::TypeRef {
                builder.#method::<Self>(#name, |builder| #arguments, |builder| #content)
            }
        }
    }
}

/// The compiler points at a bound as a whole, so all of it must claim to stand at the field.
fn respanned(tokens: &TokenStream, span: Span) -> TokenStream {
    tokens
        .clone()
        .into_iter()
        .map(|mut token| {
            token.set_span(span);
            token
        })
        .collect()
}

fn arguments(generics: &Generics) -> TokenStream {
    let arguments = generics.params.iter().filter_map(|parameter| match parameter {
        GenericParam::Type(parameter) => {
            let ident = &parameter.ident;
            Some(quote!(builder.type_argument::<#ident>()))
        }
        GenericParam::Const(parameter) => {
            let ident = &parameter.ident;
            Some(quote!(builder.const_argument(&#ident)))
        }
        // `check::message` refused it.
        GenericParam::Lifetime(_) => None,
    });
    list(arguments)
}

fn described_fields(fields: &Fields, schema: &TokenStream) -> TokenStream {
    match fields {
        Fields::Unit => quote!(#schema::Fields::Unit),
        Fields::Unnamed(fields) => {
            let types = fields.unnamed.iter().map(|field| {
                let of = &field.ty;
                quote!(<#of as #schema::Describe>::describe(builder))
            });
            let types = list(types);
            quote!(#schema::Fields::Unnamed(#types))
        }
        Fields::Named(fields) => {
            let fields = fields.named.iter().map(|field| {
                let of = &field.ty;
                let name = field.ident.as_ref().map(|ident| ident.unraw().to_string());
                quote!(builder.field::<#of>(#name))
            });
            let fields = list(fields);
            quote!(#schema::Fields::Named(#fields))
        }
    }
}

/// The tags follow the rule of the language: as given, or one more than that of the variant before, from 0.
fn described_variants(data: &DataEnum, schema: &TokenStream) -> TokenStream {
    let tags: Vec<Ident> = (0..data.variants.len()).map(|position| format_ident!("TAG_{position}")).collect();
    let mut before: Option<&Ident> = None;
    let consts = data.variants.iter().zip(&tags).map(|(variant, tag)| {
        let value = match (&variant.discriminant, before) {
            (Some((_, value)), _) => quote!(#value),
            (None, Some(before)) => quote!(#before + 1),
            (None, None) => quote!(0),
        };
        before = Some(tag);
        quote!(const #tag: ::core::primitive::u8 = #value;)
    });
    let consts: TokenStream = consts.collect();
    let variants = data.variants.iter().zip(&tags).map(|(variant, tag)| {
        let name = variant.ident.unraw().to_string();
        let fields = described_fields(&variant.fields, schema);
        quote!({
            let fields = #fields;
            builder.variant(#name, #tag, fields)
        })
    });
    let variants = list(variants);
    quote!({
        #consts
        #variants
    })
}

fn list(elements: impl Iterator<Item = TokenStream>) -> TokenStream {
    let elements: Vec<TokenStream> = elements.collect();
    if elements.is_empty() {
        return quote!({
            let _ = builder;
            ::std::vec::Vec::new()
        });
    }
    quote!(::std::vec::Vec::from([#(#elements),*]))
}

/// `Debug` for the archived form: rkyv's own way where it works. The standard derive does not see the bounds
/// that the fields of a generic type need (`<T as Archive>::Archived: Debug`), so those types get an
/// implementation of their own.
pub(crate) fn archived_debug(input: &DeriveInput, user: &UserAttributes, hivemind: &Path) -> Debug {
    let mut debug = Debug { attribute: TokenStream::new(), implementation: TokenStream::new() };
    if user.derives_debug {
        return debug;
    }
    if input.generics.params.is_empty() {
        debug.attribute = quote!(#[rkyv(derive(Debug))]);
        return debug;
    }
    let archive = quote!(#hivemind::rkyv::Archive);
    let archived = user.archived.clone().unwrap_or_else(|| format_ident!("Archived{}", input.ident.unraw()));
    let mut generics = input.generics.clone();
    let bounds = generics.make_where_clause();
    for field in fields(&input.data) {
        let of = &field.ty;
        if !bounds_are_omitted(&input.ident, field) {
            bounds.predicates.push(parse_quote!(#of: #archive));
            bounds.predicates.push(parse_quote!(<#of as #archive>::Archived: ::core::fmt::Debug));
        }
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let arms: TokenStream = match &input.data {
        Data::Struct(data) => debug_arm(&quote!(#archived), &archived.to_string(), &data.fields),
        Data::Enum(data) => data
            .variants
            .iter()
            .map(|variant| {
                let ident = &variant.ident;
                debug_arm(&quote!(#archived::#ident), &ident.unraw().to_string(), &variant.fields)
            })
            .collect(),
        Data::Union(_) => TokenStream::new(),
    };
    debug.implementation = quote! {
        #[automatically_derived]
        impl #impl_generics ::core::fmt::Debug for #archived #type_generics #where_clause {
            fn fmt(&self, formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                match self {
                    #arms
                }
            }
        }
    };
    debug
}

fn debug_arm(path: &TokenStream, name: &str, fields: &Fields) -> TokenStream {
    let bindings: Vec<Ident> = (0..fields.len()).map(|position| format_ident!("field_{position}")).collect();
    match fields {
        Fields::Unit => quote!(#path => formatter.write_str(#name),),
        Fields::Unnamed(_) => quote! {
            #path(#(#bindings),*) => formatter.debug_tuple(#name)#(.field(#bindings))*.finish(),
        },
        Fields::Named(named) => {
            let idents: Vec<_> = named.named.iter().filter_map(|field| field.ident.as_ref()).collect();
            let names = idents.iter().map(|ident| ident.unraw().to_string());
            quote! {
                #path { #(#idents: #bindings),* } => formatter.debug_struct(#name)#(.field(#names, #bindings))*.finish(),
            }
        }
    }
}
