//! The attribute `#[message]`: what it takes for a type to be sent.
//!
//! It is re-exported by the crate `hivemind`, and explained [there](macro@message).
//!
//! ```text
//! #[message]                     #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
//! struct Pose { .. }      ->     #[rkyv(crate = ::hivemind::rkyv, derive(Debug))]
//!                                struct Pose { .. }
//!                                impl ::hivemind::schema::Describe for Pose { .. }
//! ```
//!
//! The description must agree with the archive that rkyv makes, so whatever would change that archive is
//! refused with a sentence.

mod attributes;
mod check;
mod describe;
mod recursion;

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Error};

use self::attributes::{Arguments, UserAttributes};

/// Makes a struct or an enum a message, or a part of one.
///
/// The type gets an rkyv archive (`Archive`, `Serialize`, `Deserialize`, and `Debug` for its archived form)
/// and a description with a fingerprint (`hivemind::schema::Describe`). Its fields must be messages
/// themselves, or types that hivemind knows: integers of fixed size, floats, `bool`, `char`, `String`,
/// `Box<str>`, `()`, `Option`, `Box`, `Vec`, `Box<[T]>`, arrays, tuples up to 8, `BTreeMap`, `BTreeSet`,
/// `HashMap`, `HashSet`, `Duration`. Type parameters must be messages, lifetimes are not possible. A type
/// that contains itself (`Option<Box<Self>>`, `Vec<Node>` in `Node`) just works; for two types that contain
/// each other, write `#[rkyv(omit_bounds)]` on the fields by which they do.
///
/// Further attributes stay, `#[derive(Debug, Clone, PartialEq)]` as well as `#[rkyv(compare(PartialEq))]`;
/// those that would change the archive (`with`, `niche`, `as`, `remote`) are refused.
///
/// Where `missing_docs` is a warning, an enum whose variants have named fields gets one about code of rkyv,
/// which only `#![allow(missing_docs)]` on the module around it silences.
///
/// `#[message(crate = path)]` names the crate `hivemind` when it is reached by another path.
#[proc_macro_attribute]
pub fn message(arguments: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(arguments.into(), item.into()).unwrap_or_else(Error::into_compile_error).into()
}

fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream, Error> {
    let arguments: Arguments = syn::parse2(arguments)?;
    let mut input: DeriveInput = check::parse_item(item)?;
    check::message(&input)?;
    let user = UserAttributes::of(&input)?;

    let hivemind = &arguments.hivemind;
    recursion::name_self(&mut input);
    let describe = describe::implementation(&input, hivemind);
    let debug = describe::archived_debug(&input, &user, hivemind);
    let bounds = recursion::omit_bounds(&mut input, &user, hivemind);
    let Debug { attribute: debug_attribute, implementation: debug_implementation } = debug;
    Ok(quote! {
        #describe
        #[derive(#hivemind::rkyv::Archive, #hivemind::rkyv::Serialize, #hivemind::rkyv::Deserialize)]
        #[rkyv(crate = #hivemind::rkyv)]
        #debug_attribute
        #bounds
        #input
        #debug_implementation
    })
}

/// How the archived form gets its `Debug`.
struct Debug {
    attribute: TokenStream,
    implementation: TokenStream,
}
