//! What cannot be a message, said in one sentence at the right place, before rkyv says it in twenty.

use proc_macro2::TokenStream;
use syn::spanned::Spanned as _;
use syn::{Data, DeriveInput, Error, GenericArgument, GenericParam, Item, PathArguments, Type, TypePath};

use crate::attributes::fields;

/// rkyv stores the variant in one byte.
const MAX_VARIANTS: usize = 256;

pub(crate) fn parse_item(item: TokenStream) -> Result<DeriveInput, Error> {
    match syn::parse2::<Item>(item)? {
        Item::Struct(item) => Ok(item.into()),
        Item::Enum(item) => Ok(item.into()),
        Item::Union(item) => Err(Error::new(
            item.union_token.span(),
            "a union cannot be a message: nobody could tell which field is valid; use an enum",
        )),
        other => Err(Error::new(other.span(), "`#[message]` belongs on a struct or an enum")),
    }
}

pub(crate) fn message(input: &DeriveInput) -> Result<(), Error> {
    let mut errors = Errors::default();
    for parameter in &input.generics.params {
        if let GenericParam::Lifetime(lifetime) = parameter {
            let message = "a message owns its data, since it outlives the process that wrote it; use String, Vec or Box instead of references";
            errors.add(Error::new(lifetime.span(), message));
        }
    }
    if let Data::Enum(data) = &input.data {
        if data.variants.is_empty() {
            errors.add(Error::new(
                input.ident.span(),
                "an enum without variants has no values to send; give it one",
            ));
        }
        if let Some(surplus) = data.variants.iter().nth(MAX_VARIANTS) {
            errors.add(Error::new(
                surplus.ident.span(),
                "a message enum has at most 256 variants; group some in an enum of their own",
            ));
        }
        for variant in &data.variants {
            errors.refuse_cfg(&variant.attrs);
        }
    }
    for field in fields(&input.data) {
        errors.refuse_cfg(&field.attrs);
        errors.check_type(&field.ty);
    }
    errors.finish()
}

#[derive(Default)]
struct Errors(Option<Error>);

impl Errors {
    fn add(&mut self, error: Error) {
        match &mut self.0 {
            Some(all) => all.combine(error),
            None => self.0 = Some(error),
        }
    }

    fn finish(self) -> Result<(), Error> {
        self.0.map_or(Ok(()), Err)
    }

    fn refuse_cfg(&mut self, attributes: &[syn::Attribute]) {
        for attribute in attributes {
            if attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr") {
                let message = "a message has the same fields in every program, or its programs would not understand each other; remove the condition";
                self.add(Error::new(attribute.span(), message));
            }
        }
    }

    fn check_type(&mut self, of: &Type) {
        match of {
            Type::Reference(reference) => {
                let message = "a reference does not survive the process; use String instead of &str, Vec or Box instead of other references";
                self.add(Error::new(reference.span(), message));
            }
            Type::Ptr(_) | Type::BareFn(_) => {
                self.add(Error::new(
                    of.span(),
                    "an address means nothing in another process; send what it points to",
                ));
            }
            Type::TraitObject(_) | Type::ImplTrait(_) => {
                self.add(Error::new(
                    of.span(),
                    "the receiver must know the type; use an enum of the possible types",
                ));
            }
            Type::Array(array) => self.check_type(&array.elem),
            Type::Slice(slice) => self.check_type(&slice.elem),
            Type::Paren(inner) => self.check_type(&inner.elem),
            Type::Group(inner) => self.check_type(&inner.elem),
            Type::Tuple(tuple) => tuple.elems.iter().for_each(|part| self.check_type(part)),
            Type::Path(path) => self.check_path(path),
            _ => {}
        }
    }

    fn check_path(&mut self, path: &TypePath) {
        if path.path.is_ident("usize") || path.path.is_ident("isize") {
            let message = "usize and isize differ between machines, and rkyv keeps 32 bits of them; use u32, u64, i32 or i64";
            self.add(Error::new(path.span(), message));
        }
        for segment in &path.path.segments {
            let PathArguments::AngleBracketed(arguments) = &segment.arguments else { continue };
            for argument in &arguments.args {
                if let GenericArgument::Type(of) = argument {
                    self.check_type(of);
                }
            }
        }
    }
}
