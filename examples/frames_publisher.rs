//! Large plain data, filled in place: a loan is memory of the message itself, so a frame of 6 MB is never
//! copied.
//!
//! ```sh
//! cargo run --release --example frames_publisher
//! cargo run --release --example frames_subscriber
//! ```

use hivemind::Node;
use std::error::Error;
use std::time::Duration;

const WIDTH: usize = 1920;
const HEIGHT: usize = 1080;

fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::join("projector")?;
    // Few places in the ring: each holds a whole frame. Subscribers may hold some more while they look at
    // them.
    let mut frames =
        node.publisher_builder::<[u8]>("camera/frame").capacity(4).max_memory(96 << 20).create()?;
    for number in 0_usize.. {
        let mut loan = frames.loan(WIDTH * HEIGHT * 3)?;
        // The memory holds what an older frame left there, so every byte is written.
        for (y, row) in loan.chunks_exact_mut(WIDTH * 3).enumerate() {
            row.fill((y + number) as u8);
        }
        // Until here nobody could see it; a loan that is dropped instead was never a message.
        let reached = loan.send();
        println!("frame {number} to {reached}");
        std::thread::sleep(Duration::from_millis(33));
    }
    Ok(())
}
