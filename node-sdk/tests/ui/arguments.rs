use hivemind::message;

#[message(name = "Pose")]
struct Position {
    x: f64,
}

fn main() {}
