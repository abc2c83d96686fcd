//! Services that run themselves: two signals over Gotham, each on a thread of its own, until Ctrl-C.
//!
//! ```sh
//! cargo run --example bat_signal
//! cargo run --example bat_cave
//! ```

use hivemind::{Node, message};
use std::error::Error;
use std::time::Duration;

/// What stands in the sky.
#[message]
#[derive(Debug, Clone, PartialEq)]
struct Signal {
    place: String,
    brightness: f32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::join("gotham-police")?;

    let main = Signal { place: "police headquarters".to_owned(), brightness: 1.0 };
    node.service("bat-signal-main", move |service| {
        service.send(&main)?;
        // Ends early when the node leaves; the `?` then ends the service in order.
        service.sleep_for(Duration::from_secs(2))
    })?;

    let mut brightness = 0.0;
    node.service("bat-signal-spare", move |service| {
        brightness = (brightness + 0.1) % 1.0;
        service.send(&Signal { place: "docks".to_owned(), brightness })?;
        service.sleep_for(Duration::from_millis(500))
    })?;

    println!("the signals are lit; Ctrl-C puts them out");
    node.run()?;
    println!("the signals are out");
    Ok(())
}
