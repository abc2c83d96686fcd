//! A reliable service loses nothing: a publisher that is too fast is told so and waits.
//!
//! Both ends run in this one process, as two nodes; in two processes nothing would be different.

use hivemind::{Node, SendError, message};
use std::error::Error;
use std::time::Duration;

/// An amount of money; the kind of message that must not get lost.
#[message]
#[derive(Debug, Clone, PartialEq)]
struct Payment {
    number: u64,
    cents: u64,
}

const PAYMENTS: u64 = 1_000;

fn main() -> Result<(), Box<dyn Error>> {
    let shop = Node::join("shop")?;
    let mut payments = shop.publisher_builder::<Payment>("payments").reliable().capacity(16).create()?;

    let ledger = Node::join("ledger")?;
    let mut subscriber = ledger.subscriber::<Payment>("payments")?;
    payments.wait_for_subscribers(1, Duration::from_secs(5))?;

    let accountant = std::thread::spawn(move || -> Result<u64, String> {
        let mut sum = 0;
        for expected in 0..PAYMENTS {
            let payment = subscriber.recv().map_err(|error| error.to_string())?.ok_or("the node left")?;
            assert_eq!(payment.number, expected, "nothing is missing and nothing comes twice");
            sum += payment.cents.to_native();
            // An accountant takes a moment.
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(sum)
    });

    let mut waited = 0;
    for number in 0..PAYMENTS {
        let payment = Payment { number, cents: 250 };
        match payments.send(&payment) {
            Ok(_reached) => {}
            // Sixteen payments wait. Nothing was sent; this waits until there is room again.
            Err(SendError::Full { .. }) => {
                waited += 1;
                payments.send_timeout(&payment, Duration::from_secs(5))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let sum = accountant.join().map_err(|_| "the accountant panicked")??;
    println!("{PAYMENTS} payments, {sum} cents, none lost; the shop waited {waited} times");
    Ok(())
}
