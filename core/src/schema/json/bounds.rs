//! How much it may take to write a message as JSON.

/// How deep values may be nested, counting every struct, enum, option, box and collection.
pub const MAX_DEPTH: u32 = 256;
/// The longest JSON text of one message, in bytes.
pub const MAX_JSON_BYTES: usize = 16 * 1024 * 1024;
/// The most steps for one message.
pub const MAX_STEPS: u64 = 16 * 1024 * 1024;

/// How much [`Schema::to_json_within`](crate::schema::Schema::to_json_within) may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonBounds {
    /// How deep values may be nested. Each level takes a few hundred bytes of stack.
    pub depth: u32,
    /// The longest text that may be appended, in bytes.
    pub bytes: usize,
    /// The most steps: values visited, groups of hash map control bytes scanned.
    pub steps: u64,
}

impl Default for JsonBounds {
    /// [`MAX_DEPTH`], [`MAX_JSON_BYTES`], [`MAX_STEPS`].
    fn default() -> JsonBounds {
        JsonBounds { depth: MAX_DEPTH, bytes: MAX_JSON_BYTES, steps: MAX_STEPS }
    }
}
