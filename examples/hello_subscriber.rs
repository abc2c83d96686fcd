//! The smallest subscriber: prints what comes on `sensors/*`. Start it before or after `hello_publisher`,
//! kill and restart either: they find each other again.

use hivemind::{Node, message};
use std::error::Error;

/// The same type as in `hello_publisher`.
#[message]
#[derive(Debug, Clone, PartialEq)]
struct Pose {
    id: u64,
    x: f64,
    y: f64,
    frame: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::join("listener")?;
    let mut subscriber = node.subscriber::<Pose>("sensors/*")?;
    // Blocks until a message comes; `None` once the node is leaving.
    while let Some(pose) = subscriber.recv()? {
        // The fields are read where the publisher wrote them: nothing was copied or decoded.
        println!(
            "pose {} at {:.2} {:.2} in {}, from {} #{}, lost {}",
            pose.id,
            pose.x,
            pose.y,
            pose.frame,
            pose.service(),
            pose.sequence(),
            subscriber.lost()
        );
    }
    Ok(())
}
