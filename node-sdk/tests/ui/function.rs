use hivemind::message;

#[message]
fn pose() {}

fn main() {}
