//! What the demo says at its end: to people, and as one JSON object.

use std::io;

use serde::Serialize;
use serde_json::{Value, json};

use super::ledger::{Latency, LongestGap};
use super::role::Role;
use super::screen::Screen;
use super::verdict::{Pair, Verdict};
use hivemind_look::figures::{Bytes, Count, Span};

/// The longest gaps that the survivors of a kill saw around it, and what is usual: the longest of as long a
/// time before.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Gaps {
    /// Pairs that survived and were looked at.
    pub(crate) pairs: usize,
    /// The longest time for which the parent, which waits beside the hive, was held up meanwhile: a gap of
    /// that length is the machine's.
    pub(crate) stall_ns: u64,
    /// Over all of them.
    pub(crate) longest: Option<LongestGap>,
    /// Over the services that are sent a thousand times a second and more.
    pub(crate) machine: Option<LongestGap>,
    pub(crate) usual_machine: Option<LongestGap>,
    /// Over the frames, of which one comes every 33 ms.
    pub(crate) frames: Option<LongestGap>,
    pub(crate) usual_frames: Option<LongestGap>,
}

impl Gaps {
    /// One line for people.
    pub(crate) fn sentence(&self) -> String {
        let part = |name: &str, gap: &Option<LongestGap>, usual: &Option<LongestGap>| {
            let gap = gap.as_ref()?;
            let usual =
                usual.as_ref().map_or(String::new(), |usual| format!(" (before: {})", Span(usual.gap_ns)));
            Some(format!("{name} {}{usual}", Span(gap.gap_ns)))
        };
        let machine = part("machine/**", &self.machine, &self.usual_machine);
        let frames = part("frames", &self.frames, &self.usual_frames);
        let parts: Vec<String> = [machine, frames].into_iter().flatten().collect();
        match parts.is_empty() {
            true => "no pair survived that could be measured".to_owned(),
            false => format!(
                "longest gaps of the {} surviving pairs: {}{}",
                self.pairs,
                parts.join(", "),
                self.excuse()
            ),
        }
    }
}

impl Gaps {
    /// Says so if the machine itself may be to blame.
    fn excuse(&self) -> String {
        let gap_ns = self.machine.as_ref().map_or(0, |gap| gap.gap_ns);
        if self.stall_ns * 2 >= gap_ns && self.stall_ns > 0 {
            format!("; this process itself was held up for {}", Span(self.stall_ns))
        } else {
            String::new()
        }
    }
}

/// Who became the root.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Successor {
    pub(crate) process: Option<Role>,
    pub(crate) pid: u32,
    /// From the kill until the parent's node had joined the new root.
    pub(crate) after_ns: u64,
}

/// One kill.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Kill {
    pub(crate) victim: &'static str,
    pub(crate) process: Role,
    pub(crate) pid: u32,
    pub(crate) hosted_root: bool,
    pub(crate) at_seconds: f64,
    pub(crate) successor: Option<Successor>,
    pub(crate) restarted_pid: u32,
    /// From the start of the new process until it had joined.
    pub(crate) rejoined_ns: u64,
    pub(crate) gaps: Gaps,
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) seconds: f64,
    /// Received, over the whole time.
    pub(crate) messages_per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) machine: Latency,
    pub(crate) frames: Latency,
    /// Not published, because a reliable service was full.
    pub(crate) refused: u64,
    /// Over all publishers, the killed included.
    pub(crate) published: u64,
    pub(crate) kills: Vec<Kill>,
    pub(crate) verdict: Verdict,
}

impl Summary {
    fn sum(&self, part: fn(&Pair) -> u64) -> u64 {
        self.verdict.pairs.iter().map(part).sum()
    }

    /// What the surviving pairs had to get, each from where it began.
    fn due(&self) -> u64 {
        self.sum(|pair| pair.published.saturating_sub(pair.first))
    }

    /// Prints it for people.
    pub(crate) fn print(&self, screen: &mut Screen) -> io::Result<()> {
        self.print_pairs(screen)?;
        self.print_kills(screen)?;
        self.print_totals(screen)
    }

    fn print_pairs(&self, screen: &mut Screen) -> io::Result<()> {
        let heading = format!(
            "\n{:<22}{:<10}{:<10}{:>13}{:>11}{:>13}{:>8}",
            "service", "from", "to", "published", "began at", "received", "lost"
        );
        screen.say(&screen.heading(&heading))?;
        for pair in &self.verdict.pairs {
            let notes = match (pair.reliable, pair.publisher_killed) {
                (true, true) => "  reliable, publisher killed",
                (true, false) => "  reliable",
                (false, true) => "  publisher killed",
                (false, false) => "",
            };
            screen.say(&format!(
                "{:<22}{:<10}{:<10}{:>13}{:>11}{:>13}{:>8}{notes}",
                pair.service,
                pair.publisher,
                pair.subscriber,
                Count(pair.published),
                Count(pair.first),
                Count(pair.received),
                Count(pair.lost),
            ))?;
        }
        Ok(())
    }

    fn print_kills(&self, screen: &mut Screen) -> io::Result<()> {
        let heading = format!(
            "\n{:<17}{:<21}{:>6}{:>6}{:>12}{:>9}{:>9}{:>9}{:>9}",
            "killed", "", "at", "pairs", "machine/**", "before", "frames", "before", "held up"
        );
        screen.say(&screen.heading(&heading))?;
        for kill in &self.kills {
            let Kill { process, pid, victim, at_seconds, gaps, .. } = kill;
            let show = |gap: &Option<LongestGap>| {
                gap.as_ref().map_or("-".to_owned(), |gap| Span(gap.gap_ns).to_string())
            };
            screen.say(&format!(
                "{:<17}{victim:<21}{:>6}{:>6}{:>12}{:>9}{:>9}{:>9}{:>9}",
                format!("{process} ({pid})"),
                format!("{at_seconds:.1} s"),
                gaps.pairs,
                show(&gaps.machine),
                show(&gaps.usual_machine),
                show(&gaps.frames),
                show(&gaps.usual_frames),
                Span(gaps.stall_ns),
            ))?;
        }
        screen.say(
            "gaps: the longest between two messages of a surviving pair, around the kill and as long before;",
        )?;
        screen.say(
            "held up: how long this process itself, which only waits, was kept from running meanwhile",
        )?;
        Ok(())
    }

    fn print_totals(&self, screen: &mut Screen) -> io::Result<()> {
        let Latency { p50_ns, p99_ns, p999_ns, max_ns } = self.machine;
        screen.say(&format!(
            "\n{:.1} s: {} messages/s, {}/s received",
            self.seconds,
            Count(self.messages_per_second as u64),
            Bytes(self.bytes_per_second)
        ))?;
        screen.say(&format!(
            "latency of machine/**: p50 {}, p99 {}, p99.9 {}, max {}; of frames: p50 {}, p99 {}",
            Span(p50_ns),
            Span(p99_ns),
            Span(p999_ns),
            Span(max_ns),
            Span(self.frames.p50_ns),
            Span(self.frames.p99_ns),
        ))?;
        screen.say(&format!(
            "published {}; due to the {} surviving pairs {} = received {} + lost {}",
            Count(self.published),
            self.verdict.pairs.len(),
            Count(self.due()),
            Count(self.sum(|pair| pair.received)),
            Count(self.sum(|pair| pair.lost)),
        ))?;
        screen.say(&format!(
            "torn {}, out of order {}, refused by a full reliable service {}\n",
            Count(self.sum(|pair| pair.torn)),
            Count(self.sum(|pair| pair.disordered)),
            Count(self.refused),
        ))?;
        for complaint in &self.verdict.complaints {
            screen.say(&screen.verdict(false, &format!("broken: {complaint}")))?;
        }
        if self.verdict.complaints.is_empty() {
            let text = "every surviving pair: received + lost = published since it began; nothing lost on reliable services";
            screen.say(&screen.verdict(true, text))?;
        }
        Ok(())
    }

    /// The same figures for programs. Times are in nanoseconds where the name ends in `_ns`.
    pub(crate) fn json(&self) -> Value {
        json!({
            "ok": self.verdict.complaints.is_empty(),
            "seconds": self.seconds,
            "published": self.published,
            "due": self.due(),
            "received": self.sum(|pair| pair.received),
            "lost": self.sum(|pair| pair.lost),
            "torn": self.sum(|pair| pair.torn),
            "disordered": self.sum(|pair| pair.disordered),
            "refused": self.refused,
            "received_per_second": self.messages_per_second,
            "bytes_per_second": self.bytes_per_second,
            "latency": { "machine": self.machine, "frames": self.frames },
            "kills": self.kills,
            "pairs": self.verdict.pairs,
            "complaints": self.verdict.complaints,
        })
    }
}
