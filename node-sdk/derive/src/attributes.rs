//! What the user wrote: the arguments of `#[message]`, and rkyv's attributes on the item and its fields.

use proc_macro2::{TokenStream, TokenTree};
use syn::meta::ParseNestedMeta;
use syn::parse::{Parse, ParseStream};
use syn::{Data, DeriveInput, Error, Field, Ident, Path, Token, parenthesized, parse_quote};

/// `#[message(crate = path)]`.
pub(crate) struct Arguments {
    /// Where the crate `hivemind` is found.
    pub(crate) hivemind: Path,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self, Error> {
        if input.is_empty() {
            return Ok(Arguments { hivemind: parse_quote!(::hivemind) });
        }
        if !input.peek(Token![crate]) {
            return Err(input.error("the only argument of `#[message]` is `crate = path::to::hivemind`"));
        }
        input.parse::<Token![crate]>()?;
        input.parse::<Token![=]>()?;
        let hivemind = input.parse()?;
        input.parse::<Option<Token![,]>>()?;
        if !input.is_empty() {
            return Err(input.error("the only argument of `#[message]` is `crate = path::to::hivemind`"));
        }
        Ok(Arguments { hivemind })
    }
}

/// What `#[rkyv(..)]` on the item says, as far as it matters here.
#[derive(Default)]
pub(crate) struct UserAttributes {
    /// The user already asked for `Debug` on the archived form.
    pub(crate) derives_debug: bool,
    /// Another name for the archived form than `Archived` + name.
    pub(crate) archived: Option<Ident>,
    pub(crate) serialize_bounds: bool,
    pub(crate) deserialize_bounds: bool,
    pub(crate) bytecheck: bool,
}

impl UserAttributes {
    /// Reads the attributes of the item; refuses what would change the archive, here and on the fields.
    pub(crate) fn of(input: &DeriveInput) -> Result<UserAttributes, Error> {
        let mut user = UserAttributes::default();
        for attribute in &input.attrs {
            if attribute.path().is_ident("rkyv") {
                attribute.parse_nested_meta(|meta| user.item(&meta))?;
            } else if attribute.path().is_ident("derive") {
                attribute.parse_nested_meta(|meta| refuse_derive(&meta))?;
            }
        }
        for field in fields(&input.data) {
            for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("rkyv")) {
                attribute.parse_nested_meta(|meta| refuse_on_field(&meta))?;
            }
        }
        Ok(user)
    }

    fn item(&mut self, meta: &ParseNestedMeta<'_>) -> Result<(), Error> {
        let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        match name.as_str() {
            "as" | "remote" => {
                return Err(meta.error(
                    "a message has the archived form that rkyv derives; `#[message]` cannot describe another",
                ));
            }
            "crate" => {
                return Err(meta
                    .error("`#[message]` says where rkyv is; use `#[message(crate = path::to::hivemind)]`"));
            }
            "derive" => {
                let content = arguments(meta)?;
                self.derives_debug |= mentions(content, "Debug");
                return Ok(());
            }
            "attr" => {
                let content = arguments(meta)?;
                if mentions(content, "repr") {
                    return Err(meta.error(
                        "`repr` would change the archive; `#[message]` describes the one that rkyv derives",
                    ));
                }
                return Ok(());
            }
            "archived" => {
                self.archived = Some(meta.value()?.parse()?);
                return Ok(());
            }
            "serialize_bounds" => self.serialize_bounds = true,
            "deserialize_bounds" => self.deserialize_bounds = true,
            "bytecheck" => self.bytecheck = true,
            _ => {}
        }
        skip(meta)
    }
}

fn refuse_derive(meta: &ParseNestedMeta<'_>) -> Result<(), Error> {
    if meta.path.segments.last().is_some_and(|last| last.ident == "Archive") {
        return Err(
            meta.error("`#[message]` derives Archive, Serialize and Deserialize of rkyv; remove them here")
        );
    }
    skip(meta)
}

fn refuse_on_field(meta: &ParseNestedMeta<'_>) -> Result<(), Error> {
    let changes_the_archive = ["with", "niche", "getter"].into_iter().find(|name| meta.path.is_ident(name));
    if let Some(name) = changes_the_archive {
        let message = format!(
            "`{name}` would change the archive of this field in a way that `#[message]` cannot describe; remove it"
        );
        return Err(meta.error(message));
    }
    skip(meta)
}

/// All fields of a struct, or of all variants of an enum.
pub(crate) fn fields(data: &Data) -> Vec<&Field> {
    match data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|variant| variant.fields.iter()).collect(),
        Data::Union(data) => data.fields.named.iter().collect(),
    }
}

/// All fields of a struct, or of all variants of an enum.
pub(crate) fn fields_mut(data: &mut Data) -> Vec<&mut Field> {
    match data {
        Data::Struct(data) => data.fields.iter_mut().collect(),
        Data::Enum(data) => data.variants.iter_mut().flat_map(|variant| variant.fields.iter_mut()).collect(),
        Data::Union(data) => data.fields.named.iter_mut().collect(),
    }
}

/// Whether a token of the stream, at any depth, is this identifier.
pub(crate) fn mentions(tokens: TokenStream, wanted: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == wanted,
        TokenTree::Group(group) => mentions(group.stream(), wanted),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

fn arguments(meta: &ParseNestedMeta<'_>) -> Result<TokenStream, Error> {
    let content;
    parenthesized!(content in meta.input);
    content.parse()
}

/// Passes over the value or the arguments of an attribute that is rkyv's own business.
fn skip(meta: &ParseNestedMeta<'_>) -> Result<(), Error> {
    while !meta.input.is_empty() && !meta.input.peek(Token![,]) {
        meta.input.parse::<TokenTree>()?;
    }
    Ok(())
}
