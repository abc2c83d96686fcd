//! Reads frames where they lie in the publisher's memory, and keeps one for a while: it stays as it is, also
//! when the publisher goes on or is killed, until it is dropped.

use hivemind::{Node, Sample};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::join("screen")?;
    let mut frames = node.subscriber::<[u8]>("camera/*")?;
    let mut kept: Option<Sample<[u8]>> = None;
    while let Some(frame) = frames.recv()? {
        let (first, last) = (frame.first().copied(), frame.last().copied());
        println!(
            "frame {} of {} bytes, from {first:?} to {last:?}, lost {}",
            frame.sequence(),
            frame.len(),
            frames.lost()
        );
        // Every 30th frame is held until the next one of its kind. Holding does not stop the publisher.
        if frame.sequence().is_multiple_of(30)
            && let Some(old) = kept.replace(frame)
        {
            println!("kept {} until now; it still begins with {:?}", old.sequence(), old.first());
        }
    }
    Ok(())
}
