use hivemind::message;

#[message]
struct Inlined {
    #[rkyv(with = hivemind::rkyv::with::Skip)]
    skipped: u32,
}

#[message]
#[rkyv(as = u32)]
struct Number(u32);

#[message]
#[rkyv(attr(repr(packed)))]
struct Packed(u8, u32);

#[message]
#[derive(Clone, hivemind::rkyv::Archive)]
struct Twice(u8);

fn main() {}
