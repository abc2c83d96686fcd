use hivemind::message;

#[message]
struct Shared {
    id: u32,
    next: std::rc::Rc<u32>,
}

fn main() {}
