//! What the demo shows while it runs: events that stay, and below them a table that is drawn anew.
//!
//! On a terminal the table is erased and redrawn in place, events scroll up above it. Elsewhere there is no
//! table but one line a second. Nothing is ever wider or higher than the terminal, or erasing would miss a
//! line.

use std::io::{self, IsTerminal, Write};

use super::clock::monotonic_ns;
use super::ledger::{Latency, Row};
use hivemind_look::figures::{Bytes, Count, Span};

/// Width and height where the terminal does not say.
const FALLBACK_SIZE: (u16, u16) = (120, 40);
/// Four times a second the eye can follow; more would only cost.
const TABLE_EVERY_NS: u64 = 250_000_000;
const LINE_EVERY_NS: u64 = 1_000_000_000;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[1;31m";
const GREEN: &str = "\x1b[1;32m";
const PLAIN: &str = "\x1b[0m";

/// How an event looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Calm,
    Alarm,
    Relief,
}

/// What the table shows at one moment.
#[derive(Debug)]
pub(crate) struct View {
    /// Who runs, who is dead.
    pub(crate) processes: String,
    pub(crate) rows: Vec<Row>,
    /// Over everything, over the small messages, and over the frames.
    pub(crate) all: Latency,
    pub(crate) machine: Latency,
    pub(crate) frames: Latency,
}

/// The terminal, or what stands in for it.
#[derive(Debug)]
pub(crate) struct Screen {
    started_ns: u64,
    terminal: bool,
    color: bool,
    /// Lines of the table that stand on the terminal now.
    drawn: usize,
    next_ns: u64,
}

impl Screen {
    /// Standard output. Colors unless `NO_COLOR` is set.
    pub(crate) fn new() -> Screen {
        let terminal = io::stdout().is_terminal();
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let now_ns = monotonic_ns();
        Screen { started_ns: now_ns, terminal, color, drawn: 0, next_ns: now_ns }
    }

    /// Prints a line without a time.
    pub(crate) fn say(&mut self, text: &str) -> io::Result<()> {
        self.print(&[text.to_owned()])
    }

    /// Prints an event with its time since the start.
    pub(crate) fn event(&mut self, tone: Tone, text: &str) -> io::Result<()> {
        let seconds = (monotonic_ns() - self.started_ns) as f64 / 1e9;
        let color = match tone {
            Tone::Calm => "",
            Tone::Alarm => RED,
            Tone::Relief => GREEN,
        };
        let time = self.paint(DIM, &format!("{seconds:6.2} s"));
        let line = format!("{time}  {}", self.paint(color, text));
        self.print(&[line])
    }

    /// Whether it is time to [`Screen::show`] something.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.next_ns
    }

    /// Redraws the table, or prints the line of this second.
    pub(crate) fn show(&mut self, view: &View, now_ns: u64) -> io::Result<()> {
        self.next_ns = now_ns + if self.terminal { TABLE_EVERY_NS } else { LINE_EVERY_NS };
        if self.terminal {
            let lines = self.table(view);
            self.draw(&[], &lines)
        } else {
            let seconds = (now_ns.saturating_sub(self.started_ns)) as f64 / 1e9;
            let (messages, bytes, lost) = totals(&view.rows);
            let Latency { p50_ns, p99_ns, p999_ns, .. } = view.machine;
            let line = format!(
                "{seconds:6.2} s  received {}/s  {}/s  latency p50 {} p99 {} p99.9 {}  frames p50 {}  lost {}",
                Count(messages as u64),
                Bytes(bytes),
                Span(p50_ns),
                Span(p99_ns),
                Span(p999_ns),
                Span(view.frames.p50_ns),
                Count(lost),
            );
            self.draw(&[line], &[])
        }
    }

    /// Leaves the table where it is and goes on below it.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.drawn = 0;
        self.show_cursor()
    }

    /// The text, in a color where there are colors.
    pub(crate) fn paint(&self, color: &str, text: &str) -> String {
        if self.color && !color.is_empty() { format!("{color}{text}{PLAIN}") } else { text.to_owned() }
    }

    /// A heading of the summary.
    pub(crate) fn heading(&self, text: &str) -> String {
        self.paint(BOLD, text)
    }

    /// The last word of the summary.
    pub(crate) fn verdict(&self, good: bool, text: &str) -> String {
        self.paint(if good { GREEN } else { RED }, text)
    }

    fn print(&mut self, lines: &[String]) -> io::Result<()> {
        // The table that was erased comes back with the next `show`, which is due at once.
        if self.drawn > 0 {
            self.next_ns = 0;
        }
        self.draw(lines, &[])
    }

    /// Erases the table, prints `lines` for good and `table` for now.
    fn draw(&mut self, lines: &[String], table: &[String]) -> io::Result<()> {
        let mut text = String::new();
        if self.terminal {
            // Begin a synchronized update where the terminal knows it, and hide the cursor.
            text.push_str("\x1b[?2026h\x1b[?25l");
            if self.drawn > 0 {
                text.push_str(&format!("\x1b[{}F\x1b[J", self.drawn));
            }
        }
        for line in lines.iter().chain(table) {
            text.push_str(line);
            text.push('\n');
        }
        if self.terminal {
            text.push_str("\x1b[?2026l");
        }
        self.drawn = table.len();
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    fn show_cursor(&self) -> io::Result<()> {
        if self.terminal {
            let mut stdout = io::stdout().lock();
            stdout.write_all(b"\x1b[?25h")?;
            stdout.flush()?;
        }
        Ok(())
    }

    fn table(&self, view: &View) -> Vec<String> {
        let (width, height) = crossterm::terminal::size().unwrap_or(FALLBACK_SIZE);
        let mut lines = vec![String::new(), view.processes.clone()];
        let heads = format!(
            "{:<22}{:<10}{:>11}{:>12}{:>10}{:>10}{:>10}{:>8}",
            "service", "to", "messages/s", "bytes/s", "p50", "p99", "p99.9", "lost"
        );
        lines.push(heads);
        for row in &view.rows {
            let Latency { p50_ns, p99_ns, p999_ns, .. } = row.latency;
            lines.push(line(
                &row.service,
                row.subscriber.name(),
                (row.messages_per_second, row.bytes_per_second),
                [p50_ns, p99_ns, p999_ns],
                row.lost,
            ));
        }
        let (messages, bytes, lost) = totals(&view.rows);
        let Latency { p50_ns, p99_ns, p999_ns, .. } = view.all;
        lines.push(line("all", "", (messages, bytes), [p50_ns, p99_ns, p999_ns], lost));
        // The last line of the terminal is where the cursor stands.
        lines.truncate(usize::from(height).saturating_sub(1));
        let last = lines.len() - 1;
        for (place, line) in lines.iter_mut().enumerate() {
            // A line that reaches the last column may wrap on some terminals.
            *line = line.chars().take(usize::from(width).saturating_sub(1)).collect();
            if place == 2 {
                *line = self.paint(DIM, line);
            } else if place == 1 || place == last {
                *line = self.paint(BOLD, line);
            }
        }
        lines
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no cursor.
        let _gone = self.show_cursor();
    }
}

fn totals(rows: &[Row]) -> (f64, f64, u64) {
    rows.iter().fold((0.0, 0.0, 0), |(messages, bytes, lost), row| {
        (messages + row.messages_per_second, bytes + row.bytes_per_second, lost + row.lost)
    })
}

fn line(service: &str, to: &str, (messages, bytes): (f64, f64), latencies: [u64; 3], lost: u64) -> String {
    let mut line = format!("{service:<22}{to:<10}{:>11}{:>12}", Count(messages as u64), Bytes(bytes));
    for latency in latencies {
        let text = if latency == 0 { "-".to_owned() } else { Span(latency).to_string() };
        line.push_str(&format!("{text:>10}"));
    }
    line.push_str(&format!("{:>8}", Count(lost)));
    line
}
