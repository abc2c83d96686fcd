use hivemind::message;

#[message]
enum Never {}

fn main() {}
