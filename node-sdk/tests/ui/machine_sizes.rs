use hivemind::message;

#[message]
struct Counts {
    total: usize,
    offsets: Vec<(u8, isize)>,
    address: *const u8,
}

fn main() {}
