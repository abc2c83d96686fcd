//! `hm ls`: nodes, services and subscriptions of a hive, with rates, lag and loss.
//!
//! The root says who is there. Everything that moves is read from the segments themselves, mapped read-only:
//! from each ring how much was published, from each reader segment how far its subscriber is. The segments
//! are read twice, and the differences over the time between are the rates. No message is read and no counter
//! is written.
//!
//! A figure is as good as two reads of a moving thing can be: rates are exact over the interval, the lag is
//! that of one instant, give or take a message.

use std::io::{self, Write};
use std::time::Duration;

mod report;
mod tables;
mod views;

use self::report::Report;
use self::views::Views;
use crate::{Place, policy, stop};
use hivemind_look::{self as look, LookError};

/// Why nothing was shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LsError {
    /// The hive could not be looked at; the source says what to do.
    #[error(transparent)]
    Look(#[from] LookError),
    /// The signal handlers could not be installed. Raise the limit of descriptors.
    #[error("cannot listen for Ctrl-C: {0}; raise the limit of descriptors")]
    Signals(io::Error),
    /// Standard output is closed or full.
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
}

/// Shows the hive once.
pub(crate) fn run(place: &Place, interval: Duration, json: bool) -> Result<(), LsError> {
    // A look takes a moment; Ctrl-C ends it without a word.
    stop::on_signal(|| std::process::exit(130)).map_err(LsError::Signals)?;
    if let Some(trouble) = place.runtime_dir().ok().and_then(|dir| policy::trouble(&dir)) {
        eprintln!("hm: {trouble}; the root refuses this policy, and what was in force before stays so");
    }
    let node =
        place.node(&format!("hm-ls-{}", std::process::id())).observer().join().map_err(LookError::from)?;
    let listing = look::listing(&node)?;
    let views = Views::open(&node, &listing);
    let first = views.read(&listing);
    let second = if interval.is_zero() {
        None
    } else {
        std::thread::sleep(interval);
        Some(views.read(&listing))
    };
    let report = Report::new(&listing, &views, &first, second.as_ref());
    node.leave();
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", report.json(place, &listing, interval))?;
    } else {
        tables::print(&report, &mut out, place, &listing)?;
    }
    out.flush()?;
    Ok(())
}
