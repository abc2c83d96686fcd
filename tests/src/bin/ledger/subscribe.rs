//! A subscriber's process.

use crate::{Delivery, Form, Job, PATIENCE, Pace, SERVICE};
use hivemind::{ConnectionStatus, Message, Node, Subscriber};
use hivemind_tests::account::Account;
use hivemind_tests::entry::{Checked, Entry, checksum};
use serde::{Deserialize, Serialize};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A working subscriber computes as long as it takes to check so many bytes.
const WORK_BYTES: usize = 8192;
/// A sleeping subscriber sleeps after so many messages: of a lossy service so long that it must lose some.
const SLEEP_EVERY: u64 = 2048;

/// What a subscriber has counted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Received {
    /// By the messages themselves.
    pub(crate) account: Account,
    /// By the SDK: received, lost.
    pub(crate) sdk: (u64, u64),
    /// By the SDK, for the one connection: first, received, lost, ended.
    pub(crate) connections: Vec<(u64, u64, u64, bool)>,
    /// What went wrong.
    pub(crate) errors: Vec<String>,
}

pub(crate) fn run(job: &Job, number: usize, pace: Pace) -> ExitCode {
    let node =
        Node::builder(&format!("subscriber-{number}")).patience(PATIENCE).join().expect("the hive is ours");
    let received = match job.form {
        Form::Typed => {
            receive(job, pace, node.subscriber::<Entry>(SERVICE).expect("the service has this type"))
        }
        Form::Bytes => {
            receive(job, pace, node.subscriber::<[u8]>(SERVICE).expect("the service has this type"))
        }
    };
    println!("{}", serde_json::to_string(&received).expect("plain data"));
    ExitCode::SUCCESS
}

fn receive<T>(job: &Job, pace: Pace, mut subscriber: Subscriber<T>) -> Received
where
    T: Message + ?Sized,
    T::Read: Checked,
{
    let mut account = Account::default();
    let mut errors = Vec::new();
    let ballast = vec![1; WORK_BYTES];
    let mut work = 0;
    let nap = match job.delivery {
        Delivery::Lossy => Duration::from_millis(5),
        Delivery::Reliable => Duration::from_micros(50),
    };
    let mut heard = Instant::now();
    while errors.is_empty() {
        match subscriber.recv_timeout(Duration::from_millis(100)) {
            Ok(Some(sample)) => {
                account.enter(sample.sequence(), &*sample);
                drop(sample);
                match pace {
                    Pace::Fast => {}
                    Pace::Working => work ^= checksum(work, &ballast),
                    Pace::Sleeping if account.received % SLEEP_EVERY == 0 => std::thread::sleep(nap),
                    Pace::Sleeping => {}
                }
                if account.received % 1024 == 0 {
                    heard = Instant::now();
                }
            }
            // Attached once, and now detached: the publisher has closed and all is read.
            Ok(None) if subscriber.connections().iter().any(|connection| connection.ended) => break,
            Ok(None) if heard.elapsed() < PATIENCE => {}
            Ok(None) => errors.push(format!("nothing came in {PATIENCE:?}")),
            Err(error) => errors.push(error.to_string()),
        }
    }
    // The work must not be optimised away.
    std::hint::black_box(work);
    let plain = |status: ConnectionStatus| (status.first, status.received, status.lost, status.ended);
    let connections = subscriber.connections().into_iter().map(plain).collect();
    Received { account, sdk: (subscriber.received(), subscriber.lost()), connections, errors }
}
