//! One lap: the floor, a contender's two processes, the floor again.

use std::fs;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use hivemind_benches::error::HarnessError;
use hivemind_benches::floor::{Floor, agree};
use hivemind_benches::peer::{Order, Peer};
use hivemind_benches::readings::{Readings as FloorReadings, Summary};
use rivals_course::case::{Case, Effort, Task};
use rivals_course::contender::Run;
use rivals_course::program::next_answer;
use rivals_course::readings::Readings;
use rivals_course::runner::Outcome;

use crate::field::Contender;
use crate::results::{CURVE, Figures, Lap};

/// How often one lap is run before it counts, marked unsteady.
pub(crate) const ATTEMPTS: usize = 4;
/// A lap that takes longer than this is killed and counts as failed.
const LIMIT: Duration = Duration::from_secs(60);
/// Batches of the floor of one cache line.
const FLOOR_BATCHES: u64 = 2_000;
/// Rounds of the floor of one futex: as many as a contender makes, since the first few hundred are not like
/// the rest (probably the host adapts to cores that halt).
const FLOOR_ROUNDS: u64 = 2_000;
/// How long the processes of a killed lap may take to be gone.
const DEATH: Duration = Duration::from_secs(5);

/// Where laps are run.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) floor: Floor,
    pub(crate) peer: Peer,
    pub(crate) cores: (usize, usize),
    pub(crate) effort: Effort,
    pub(crate) clock_ns: u64,
    pub(crate) smoke: bool,
}

impl Track {
    /// Runs the case until both floors agree, or [`ATTEMPTS`] times.
    pub(crate) fn run(&mut self, contender: &Contender, case: &Case) -> Lap {
        let sleepers = matches!(case.task, Task::RoundTrip { asleep: true, .. } | Task::ColdStart);
        let mut lap = Lap {
            contender: contender.description.name.clone(),
            case: case.name.to_owned(),
            floors: (0.0, 0.0),
            steady: false,
            attempts: 0,
            figures: Err("not run".to_owned()),
        };
        while !lap.steady && lap.attempts < ATTEMPTS {
            lap.attempts += 1;
            let before = self.measure_floor(sleepers);
            lap.figures = self.once(contender, case);
            let after = self.measure_floor(sleepers);
            match (before, after) {
                (Ok(before), Ok(after)) => {
                    lap.floors = (before, after);
                    lap.steady = agree(before, after);
                }
                (Err(error), _) | (_, Err(error)) => {
                    lap.figures = Err(error.to_string());
                    break;
                }
            }
            if lap.figures.is_err() || self.smoke {
                break;
            }
        }
        lap
    }

    /// The median of the floor, in nanoseconds.
    fn measure_floor(&mut self, sleepers: bool) -> Result<f64, HarnessError> {
        self.floor.reset();
        let summary: Summary = if sleepers {
            let rounds = if self.smoke { FLOOR_ROUNDS / 10 } else { FLOOR_ROUNDS };
            self.peer.order(&Order::FloorAsleep { rounds })?;
            self.floor.ask_asleep(rounds, self.clock_ns)?
        } else {
            self.peer.order(&Order::Floor { batches: FLOOR_BATCHES })?;
            self.floor.ask(FLOOR_BATCHES)?
        };
        let _none: Option<FloorReadings> = self.peer.answer()?;
        Ok(summary.p50)
    }

    fn once(&self, contender: &Contender, case: &Case) -> Result<Figures, String> {
        let room = tempfile::Builder::new()
            .prefix("rivals-")
            .tempdir_in(memory())
            .map_err(|error| error.to_string())?;
        let task = match case.task {
            Task::Services { count } => Task::Services { count: count / self.effort.fewer_services },
            other => other,
        };
        let run = Run {
            contender: contender.description.name.clone(),
            task,
            effort: self.effort,
            room: room.path().to_owned(),
            cores: self.cores,
        };
        let traces = traces(&contender.program, &run)?;
        let before = remains(&traces);
        let outcome = outcome_of(&contender.program, &run);
        // Counted before anything is tidied up; a contender that was not killed has tidied up itself.
        let mut left = remains(&traces);
        left.retain(|path| !before.contains(path));
        let files_left = files_in(room.path()) + left.len() as u64;
        for path in left {
            // What cannot be removed shows as left over in the next lap, too.
            let _removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
        let mut figures = figures(outcome?);
        if matches!(case.task, Task::Services { .. }) {
            figures.files_left = Some(files_left);
        }
        Ok(figures)
    }
}

/// A folder in memory: the rivals that map files want one, and no figure should depend on a disk.
fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// Starts the contender, hears its answer, ends it. A run with services is killed, so that what it leaves can
/// be seen.
fn outcome_of(program: &Path, run: &Run) -> Result<Outcome, String> {
    let text = serde_json::to_string(run).map_err(|error| error.to_string())?;
    let mut child = Command::new(program)
        .args(["parent", &text])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let stdout = child.stdout.take().ok_or("no stdout")?;
    let mut stderr = child.stderr.take().ok_or("no stderr")?;
    let (said, hear) = channel();
    std::thread::spawn(move || {
        // Nobody listens any more if the lap took too long.
        let _heard = said.send(next_answer(&mut BufReader::new(stdout)));
    });
    let complaints = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _until_closed = std::io::Read::read_to_end(&mut stderr, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let answer = hear.recv_timeout(LIMIT);
    let outcome = match answer {
        Ok(Ok(Some(answer))) => serde_json::from_str::<Outcome>(&answer).map_err(|error| error.to_string()),
        Ok(Ok(None)) => Err(String::new()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            Err(format!("no answer within {} s", LIMIT.as_secs()))
        }
    };
    end(&mut child, run, &outcome);
    let complaints = complaints.join().unwrap_or_default();
    outcome.map_err(|error| {
        let _shown = write!(std::io::stderr(), "{complaints}");
        let last = complaints.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        if error.is_empty() { last.to_owned() } else { format!("{error} ({last})") }
    })
}

/// A contender that answered ends by itself, unless it waits to be killed; one that did not is killed.
fn end(child: &mut Child, run: &Run, outcome: &Result<Outcome, String>) {
    let deadline = Instant::now() + DEATH;
    let waits_to_be_killed = matches!(run.task, Task::Services { .. });
    if waits_to_be_killed || outcome.is_err() {
        let _already_gone = child.kill();
    }
    drop(child.stdin.take());
    while let Ok(None) = child.try_wait() {
        if Instant::now() > deadline {
            let _already_gone = child.kill();
            let _reaped = child.wait();
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // The kernel kills the peer with its parent; what it leaves is complete when it is gone.
    if let Ok(Outcome { peer_pid: Some(pid), .. }) = outcome {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        while proc.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn traces(program: &Path, run: &Run) -> Result<Vec<PathBuf>, String> {
    let text = serde_json::to_string(run).map_err(|error| error.to_string())?;
    let output = Command::new(program).args(["traces", &text]).output().map_err(|error| error.to_string())?;
    let answer = next_answer(&mut BufReader::new(&output.stdout[..])).map_err(|error| error.to_string())?;
    serde_json::from_str(&answer.ok_or("it did not say what it leaves behind")?)
        .map_err(|error| error.to_string())
}

/// Paths that begin with one of the prefixes, or end in what stands behind a `*`.
fn remains(prefixes: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for prefix in prefixes {
        let (Some(folder), Some(name)) = (prefix.parent(), prefix.file_name()) else { continue };
        let Ok(entries) = fs::read_dir(folder) else { continue };
        let pattern = name.as_encoded_bytes();
        let begins = |path: &PathBuf| {
            let other = path.file_name().unwrap_or_default().as_encoded_bytes();
            pattern.strip_prefix(b"*").map_or(other.starts_with(pattern), |end| other.ends_with(end))
        };
        found.extend(entries.flatten().map(|entry| entry.path()).filter(begins));
    }
    found
}

/// Everything in a folder but folders, at any depth.
fn files_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_in(&entry.path()),
            _ => 1,
        })
        .sum()
}

fn figures(outcome: Outcome) -> Figures {
    let Outcome { batches, mut singles, checked, parent, peer, peer_pid: _ } = outcome;
    let curve = singles.quantiles(CURVE);
    let summary = summary(batches, singles);
    Figures {
        p50: summary.p50,
        p99: summary.p99,
        p999: summary.p999,
        max: summary.max,
        per_second: summary.per_second,
        operations: summary.operations,
        checked,
        curve,
        parent,
        peer,
        files_left: None,
    }
}

/// Batches give the median and the rate, single readings the tail; where only one kind was taken, it gives
/// all.
fn summary(batches: Readings, singles: Readings) -> rivals_course::readings::Summary {
    use rivals_course::readings::Summary;
    let (of_batches, of_singles) = (batches.clone().summary(), singles.clone().summary());
    match (of_batches.operations, of_singles.operations) {
        (0, _) => of_singles,
        (_, 0) => of_batches,
        _ => Summary::of_batches_and_singles(batches, singles),
    }
}
