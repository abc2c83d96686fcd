use hivemind::message;

#[message]
union Number {
    integer: u32,
    float: f32,
}

fn main() {}
