use hivemind::message;

#[message]
struct Optional {
    always: u32,
    #[cfg(unix)]
    sometimes: u32,
}

fn main() {}
