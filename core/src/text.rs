//! Checked texts on the wire: a name or a filter travels as its text, and is checked when it is read.
//!
//! So what a message names is a name, or the message is damaged; nobody behind the decoder checks it again.

/// Archives a type as its text. The type has `as_str` and `parse`, whose error says what is wrong with a
/// text.
macro_rules! archive_as_text {
    ($name:ident) => {
        impl rkyv::Archive for $name {
            type Archived = rkyv::string::ArchivedString;
            type Resolver = rkyv::string::StringResolver;

            fn resolve(&self, resolver: Self::Resolver, out: rkyv::Place<Self::Archived>) {
                rkyv::string::ArchivedString::resolve_from_str(self.as_str(), resolver, out);
            }
        }

        impl<S> rkyv::Serialize<S> for $name
        where
            S: rkyv::rancor::Fallible<Error: rkyv::rancor::Source> + ?Sized,
            str: rkyv::SerializeUnsized<S>,
        {
            fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
                rkyv::string::ArchivedString::serialize_from_str(self.as_str(), serializer)
            }
        }

        impl<D> rkyv::Deserialize<$name, D> for rkyv::string::ArchivedString
        where
            D: rkyv::rancor::Fallible<Error: rkyv::rancor::Source> + ?Sized,
        {
            fn deserialize(&self, _: &mut D) -> Result<$name, D::Error> {
                $name::parse(self.as_str()).map_err(rkyv::rancor::Source::new)
            }
        }
    };
}

pub(crate) use archive_as_text;
