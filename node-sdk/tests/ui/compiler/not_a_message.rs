use hivemind::message;

struct Plain {
    x: f64,
}

#[message]
struct Wrapper {
    id: u32,
    plain: Plain,
}

fn main() {}
