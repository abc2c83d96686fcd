//! Which end of which node: the address of a publisher or a subscription in a hive.
pub use self::id::EndId;

// A room of its own, so that nobody can name the archived form.
mod id {
    #![allow(missing_docs)] // The fields of the resolver that rkyv derives.

    use std::fmt;

    use rkyv::{Archive, Deserialize, Serialize};

    /// One end of a service, in one life of one node.
    #[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct EndId {
        /// The epoch of the node: a number of this life, never 0, which no other process can have (see
        /// [`crate::identity`]).
        pub node: u64,
        /// Which end of the node; never reused within its life.
        pub index: u32,
    }

    impl EndId {
        /// Before all others.
        pub(crate) const FIRST: EndId = EndId { node: 0, index: 0 };
        /// After all others.
        pub(crate) const LAST: EndId = EndId { node: u64::MAX, index: u32::MAX };
    }

    impl fmt::Display for EndId {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "{:016x}:{}", self.node, self.index)
        }
    }
}
