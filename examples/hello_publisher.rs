//! The smallest publisher: ten typed messages a second on `sensors/pose`, until Ctrl-C.
//!
//! ```sh
//! cargo run --example hello_publisher
//! cargo run --example hello_subscriber    # in another terminal, before or after
//! cargo run -p hivemind-cli -- echo 'sensors/*'       # or this, which was never compiled with `Pose`
//! ```

use hivemind::{Node, message};
use std::error::Error;
use std::time::Duration;

/// Where something is. The subscriber has the same definition; another one would be refused, with what
/// differs.
#[message]
#[derive(Debug, Clone, PartialEq)]
struct Pose {
    id: u64,
    x: f64,
    y: f64,
    frame: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::join("camera")?;
    let mut publisher = node.publisher::<Pose>("sensors/pose")?;
    for id in 0.. {
        let angle = id as f64 / 10.0;
        let pose = Pose { id, x: angle.cos(), y: angle.sin(), frame: "map".to_owned() };
        // Archived once, straight into shared memory. Nobody needs to listen, and nobody can hold it up.
        let reached = publisher.send(&pose)?;
        println!("sent {id} to {reached}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
