//! The tables, as Markdown between two markers, so that hand-written parts of the file stay.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use rivals_course::case::{CASES, Task};
use rivals_course::contender::Waits;
use rivals_course::program::Description;

use crate::lap::ATTEMPTS;
use crate::results::{Cell, Results};

const BEGIN: &str =
    "<!-- rivals: begin. Written by benches/rivals/run; what is changed by hand here is lost. -->";
const END: &str = "<!-- rivals: end -->";

const GIB: f64 = (1_u64 << 30) as f64;

/// Puts the report between the markers of `file`, or at its end if it has none.
pub(crate) fn write_between_markers(
    file: &Path,
    results: &Results,
) -> Result<(), Box<dyn std::error::Error>> {
    let old = fs::read_to_string(file).unwrap_or_default();
    let generated = format!("{BEGIN}\n\n{}\n{END}", markdown(results).trim_end());
    let new = match (old.find(BEGIN), old.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{}{generated}{}", &old[..begin], &old[end + END.len()..])
        }
        (None, None) => format!("{}\n\n{generated}\n", old.trim_end()),
        _ => {
            return Err(format!(
                "{} has one marker of the rivals' part and not the other; repair it",
                file.display()
            )
            .into());
        }
    };
    Ok(fs::write(file, new)?)
}

/// The whole report.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = String::new();
    head(&mut text, results);
    round_trips(&mut text, results);
    one_way(&mut text, results);
    by_size(&mut text, results);
    send_cost(&mut text, results);
    blocking(&mut text, results);
    creation(&mut text, results);
    setups(&mut text, results);
    absences(&mut text, results);
    text
}

/// Adds one line. Writing into a `String` cannot fail.
macro_rules! line {
    ($text:expr, $($argument:tt)*) => {
        writeln!($text, $($argument)*).expect("writing into a String does not fail")
    };
}

fn head(text: &mut String, results: &Results) {
    let facts = &results.facts;
    let unsteady = results.laps.iter().filter(|lap| !lap.steady && lap.figures.is_ok()).count();
    line!(text, "## Beside the rivals\n");
    if facts.smoke {
        line!(text, "**A smoke run: it shows that everything works, and no figure in it is a claim.**\n");
    }
    line!(text, "`benches/rivals/run --runs {}` took {} s.\n", facts.runs, results.seconds);
    line!(text, "```text");
    line!(text, "machine  {}, {} usable cores, load {}", facts.processor, facts.usable_cores, facts.load);
    line!(text, "kernel   {}", facts.kernel);
    line!(text, "commit   {}, {} build", facts.commit, facts.profile);
    line!(
        text,
        "pinning  parent with all its threads on core {}, peer on core {}; two readings of the clock cost {} ns",
        facts.cores.0,
        facts.cores.1,
        facts.clock_ns
    );
    line!(
        text,
        "runs     medians of {}; {} laps, {} of them unsteady after {} attempts",
        facts.runs,
        results.laps.len(),
        unsteady,
        ATTEMPTS
    );
    line!(text, "floor    {}", floors(results));
    line!(text, "```\n");
    line!(
        text,
        "All contenders do the same work between two pinned processes; every message is numbered and every number is \
         checked by the receiver. `x` is the multiple of the raw floor (the round trip of one cache line on the same two \
         cores, measured before and after each lap); of a futex where both ends sleep. A lap whose two floors differ by \
         more than 15 % is run again; `~` marks medians of laps that stayed unsteady. `-` is explained at the end.\n"
    );
    line!(
        text,
        "The host moves the cores between laps (see the range of the floors above), by factors of four and more: compare \
         multiples of the floor first. Nanoseconds and rates of two rows can come from different places; a rate is a \
         median over laps, most of which were near each other.\n"
    );
}

/// The range of the floors: what the host did meanwhile.
fn floors(results: &Results) -> String {
    let range = |sleepers: bool| {
        let asleep = |name: &str| name == "cold_start" || name.starts_with("blocking");
        let floors = results.laps.iter().filter(|lap| asleep(&lap.case) == sleepers && lap.figures.is_ok());
        let mut floors: Vec<f64> = floors.map(crate::results::Lap::floor).collect();
        floors.sort_by(f64::total_cmp);
        match floors.as_slice() {
            [] => "not measured".to_owned(),
            all => format!("{:.0} to {:.0} ns, median {:.0}", all[0], all[all.len() - 1], all[all.len() / 2]),
        }
    };
    format!("of a cache line {}; of a futex {}", range(false), range(true))
}

/// The contenders that have a figure in one of the cases.
fn with_figures<'results>(results: &'results Results, cases: &[&str]) -> Vec<&'results Description> {
    let has = |name: &str| cases.iter().any(|case| results.cell(name, case).is_some());
    results.contenders.iter().filter(|contender| has(&contender.name)).collect()
}

fn show(cell: Option<&Cell<'_>>, figure: impl Fn(&Cell<'_>) -> String) -> String {
    cell.map_or_else(
        || "-".to_owned(),
        |cell| format!("{}{}", if cell.doubtful { "~" } else { "" }, figure(cell)),
    )
}

/// Three digits that count.
fn short(figure: f64) -> String {
    let decimals = match figure.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        small if small >= 1.0 || small == 0.0 => 2,
        _ => 3,
    };
    format!("{figure:.decimals$}")
}

fn nanoseconds(figure: f64) -> String {
    match figure {
        large if large >= 1e6 => format!("{} ms", short(large / 1e6)),
        middle if middle >= 1e4 => format!("{} us", short(middle / 1e3)),
        small => format!("{} ns", short(small)),
    }
}

fn round_trips(text: &mut String, results: &Results) {
    let cases = ["round_trip_64B", "round_trip_4KiB", "round_trip_1MiB"];
    let contenders = with_figures(results, &cases);
    if contenders.is_empty() {
        return;
    }
    line!(text, "### Round trip\n");
    line!(
        text,
        "Both ends spin where they can. Of 4 KiB and 1 MiB the first and the last cache line are written and read, in place \
         where the contender lends its memory.\n"
    );
    line!(text, "![Distribution of the 64 B round trip](plots/latency.svg)\n");
    line!(text, "| | waits | 64 B | x | p99 | p99.9 | 4 KiB | x | 1 MiB | x |");
    line!(text, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for contender in contenders {
        let cells = cases.map(|case| results.cell(&contender.name, case));
        let [small, middle, large] = &cells;
        let p50 = |cell: &Option<Cell<'_>>| show(cell.as_ref(), |cell| nanoseconds(cell.p50()));
        let ratio = |cell: &Option<Cell<'_>>| show(cell.as_ref(), |cell| short(cell.ratio()));
        line!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            contender.name,
            waits(contender, cases[0]),
            p50(small),
            ratio(small),
            show(small.as_ref(), |cell| nanoseconds(cell.median(|_, figures| figures.p99))),
            show(small.as_ref(), |cell| nanoseconds(cell.median(|_, figures| figures.p999))),
            p50(middle),
            ratio(middle),
            p50(large),
            ratio(large),
        );
    }
    line!(text, "");
}

fn waits(contender: &Description, case: &str) -> &'static str {
    let answer = contender.cases.iter().find(|(name, _)| name == case).map(|(_, answer)| answer);
    match answer {
        Some(Ok(Waits::Spins)) => "spins",
        Some(Ok(Waits::Blocks)) => "blocks",
        Some(Ok(Waits::PollsTheKernel)) => "polls the kernel",
        _ => "-",
    }
}

fn one_way(text: &mut String, results: &Results) {
    let cases = ["one_way_64B", "one_way_64B_batched", "one_way_1MiB"];
    let contenders = with_figures(results, &cases);
    if contenders.is_empty() {
        return;
    }
    line!(text, "### One way, nothing lost\n");
    line!(
        text,
        "Rates as the receiver sees them, over the whole time of the measurement. `one at a time`: one call of the sender a \
         message. `in batches`: as many a call as the setup below says. 1 MiB is written and read in every word.\n"
    );
    line!(text, "| | 64 B, one at a time | 64 B, in batches | 1 MiB, in full |");
    line!(text, "| --- | ---: | ---: | ---: |");
    for contender in contenders {
        let cells = cases.map(|case| results.cell(&contender.name, case));
        let million = |cell: &Option<Cell<'_>>| {
            show(cell.as_ref(), |cell| format!("{} million/s", short(cell.per_second() / 1e6)))
        };
        line!(
            text,
            "| {} | {} | {} | {} |",
            contender.name,
            million(&cells[0]),
            million(&cells[1]),
            show(cells[2].as_ref(), |cell| format!(
                "{} GiB/s",
                short(cell.per_second() * (1 << 20) as f64 / GIB)
            )),
        );
    }
    line!(text, "");
}

/// The one-way cases with their sizes, one at a time.
pub(crate) fn sizes() -> Vec<(&'static str, usize)> {
    CASES
        .iter()
        .filter_map(|case| match case.task {
            Task::OneWay { bytes, batched: false } => Some((case.name, bytes)),
            _ => None,
        })
        .collect()
}

fn by_size(text: &mut String, results: &Results) {
    let sizes = sizes();
    let names: Vec<&str> = sizes.iter().map(|(name, _)| *name).collect();
    let contenders = with_figures(results, &names);
    if contenders.is_empty() {
        return;
    }
    line!(text, "### Throughput by size\n");
    line!(
        text,
        "GiB/s, one message a call, nothing lost; every word is written and read (of 64 B: all written, the first and the \
         last read).\n"
    );
    line!(text, "![Throughput by size](plots/throughput.svg)\n");
    let labels: Vec<&str> = names.iter().map(|name| name.trim_start_matches("one_way_")).collect();
    line!(text, "| | {} |", labels.join(" | "));
    line!(text, "| --- |{}", " ---: |".repeat(labels.len()));
    for contender in contenders {
        let cells = sizes.iter().map(|(name, bytes)| {
            show(results.cell(&contender.name, name).as_ref(), |cell| {
                short(cell.per_second() * *bytes as f64 / GIB)
            })
        });
        line!(text, "| {} | {} |", contender.name, cells.collect::<Vec<_>>().join(" | "));
    }
    line!(text, "");
}

/// The fan-out cases: subscribers, whether they drain, name.
pub(crate) fn fans() -> Vec<(usize, bool, &'static str)> {
    CASES
        .iter()
        .filter_map(|case| match case.task {
            Task::FanOut { subscribers, draining } => Some((subscribers, draining, case.name)),
            _ => None,
        })
        .collect()
}

fn send_cost(text: &mut String, results: &Results) {
    let fans = fans();
    let names: Vec<&str> = fans.iter().map(|(.., name)| *name).collect();
    let contenders = with_figures(results, &names);
    if contenders.is_empty() {
        return;
    }
    line!(text, "### Cost of one send by subscribers\n");
    line!(
        text,
        "64 B, all subscribers in the peer. A sender whose subscribers lose the oldest never waits; Aeron's waits for the \
         slowest. The last two columns: 64 subscribers as a multiple of one.\n"
    );
    line!(text, "![Cost of one send by subscribers](plots/send_cost.svg)\n");
    let labels: Vec<String> = fans
        .iter()
        .map(|(subscribers, draining, _)| {
            format!("{subscribers}{}", if *draining { ", draining" } else { "" })
        })
        .collect();
    line!(text, "| | {} | 64 / 1 | draining |", labels.join(" | "));
    line!(text, "| --- |{}", " ---: |".repeat(labels.len() + 2));
    for contender in contenders {
        let cell = |name: &str| results.cell(&contender.name, name);
        let cells: Vec<String> =
            names.iter().map(|name| show(cell(name).as_ref(), |cell| nanoseconds(cell.p50()))).collect();
        let growth = |draining: bool| {
            let of = |wanted: usize| {
                let (.., name) =
                    fans.iter().find(|(count, drains, _)| *count == wanted && *drains == draining)?;
                cell(name).map(|cell| cell.p50())
            };
            match (of(64), of(1)) {
                (Some(many), Some(one)) => short(many / one),
                _ => "-".to_owned(),
            }
        };
        line!(text, "| {} | {} | {} | {} |", contender.name, cells.join(" | "), growth(false), growth(true));
    }
    line!(text, "");
}

fn blocking(text: &mut String, results: &Results) {
    const CASE: &str = "blocking_round_trip_64B";
    let contenders = with_figures(results, &[CASE]);
    if contenders.is_empty() {
        return;
    }
    line!(text, "### Blocking round trip\n");
    line!(
        text,
        "64 B, both ends asleep when the message is sent. `x`: of the floor, which is a futex round trip of the same lap's \
         brackets.\n"
    );
    line!(text, "| | p50 | x | p99 |");
    line!(text, "| --- | ---: | ---: | ---: |");
    for contender in contenders {
        let cell = results.cell(&contender.name, CASE);
        line!(
            text,
            "| {} | {} | {} | {} |",
            contender.name,
            show(cell.as_ref(), |cell| nanoseconds(cell.p50())),
            show(cell.as_ref(), |cell| short(cell.ratio())),
            show(cell.as_ref(), |cell| nanoseconds(cell.median(|_, figures| figures.p99))),
        );
    }
    line!(text, "");
}

fn creation(text: &mut String, results: &Results) {
    let cases = ["cold_start", "services_1000"];
    let contenders = with_figures(results, &cases);
    if contenders.is_empty() {
        return;
    }
    line!(text, "### Creation\n");
    line!(
        text,
        "Cold: from nothing to the first message received, both ends in one process (a node, a new service, a publisher, a \
         subscriber, where the contender has such things; root or driver already running in the other process). 1000 \
         services: each with a publisher in one process and a subscriber in the other, until each has carried one message; \
         resident memory, descriptors and what is left in the file system after both were killed.\n"
    );
    line!(
        text,
        "| | cold, p50 | p99 | 1000 services | resident, publishers | subscribers | descriptors, publishers | subscribers | \
         files left |"
    );
    line!(text, "| --- |{}", " ---: |".repeat(8));
    for contender in contenders {
        let cold = results.cell(&contender.name, cases[0]);
        let many = results.cell(&contender.name, cases[1]);
        let many = many.as_ref();
        line!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            contender.name,
            show(cold.as_ref(), |cell| nanoseconds(cell.p50())),
            show(cold.as_ref(), |cell| nanoseconds(cell.median(|_, figures| figures.p99))),
            show(many, |cell| nanoseconds(cell.p50())),
            show(many, |cell| mebibytes(cell.median(|_, figures| figures.parent.resident_kib as f64))),
            show(many, |cell| mebibytes(cell.median(|_, figures| figures.peer.resident_kib as f64))),
            show(many, |cell| format!("{:.0}", cell.median(|_, figures| figures.parent.descriptors as f64))),
            show(many, |cell| format!("{:.0}", cell.median(|_, figures| figures.peer.descriptors as f64))),
            show(many, |cell| format!(
                "{:.0}",
                cell.median(|_, figures| figures.files_left.unwrap_or(0) as f64)
            )),
        );
    }
    line!(text, "");
}

fn mebibytes(kibibytes: f64) -> String {
    format!("{} MiB", short(kibibytes / 1024.0))
}

fn setups(text: &mut String, results: &Results) {
    line!(text, "### Versions and setups\n");
    line!(
        text,
        "A figure that looks unfair to a rival is a defect: say how it should be set up, and it will be.\n"
    );
    line!(text, "| | version | setup |");
    line!(text, "| --- | --- | --- |");
    for contender in &results.contenders {
        line!(text, "| {} | {} | {} |", contender.name, contender.version, contender.setup);
    }
    line!(text, "");
}

/// Every `-` of the tables, with its reason; and who is not there at all.
fn absences(text: &mut String, results: &Results) {
    if !results.not_running.is_empty() {
        line!(text, "### Not built, or not run\n");
        for absent in &results.not_running {
            line!(text, "- **{}**: {}", absent.name, absent.reason);
        }
        line!(text, "");
    }
    line!(text, "### What the dashes mean\n");
    for contender in &results.contenders {
        let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for case in CASES.iter().filter(|case| results.cell(&contender.name, case.name).is_none()) {
            let reason = results
                .reason(&contender.name, case.name)
                .unwrap_or_else(|| "not asked for in this run".to_owned());
            reasons.entry(reason).or_default().push(case.name);
        }
        let said: Vec<String> =
            reasons.iter().map(|(reason, cases)| format!("{} ({})", reason, cases.join(", "))).collect();
        if !said.is_empty() {
            line!(text, "- {}: {}", contender.name, said.join("; "));
        }
    }
    line!(text, "");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits_that_count() {
        assert_eq!(
            ["0.123", "1.23", "12.3", "123"].map(str::to_owned),
            [0.1234, 1.234, 12.34, 123.4].map(short)
        );
        assert_eq!(nanoseconds(999.6), "1000 ns");
        assert_eq!(nanoseconds(43_210.0), "43.2 us");
        assert_eq!(nanoseconds(1_900_000_000.0), "1900 ms");
    }

    #[test]
    fn hand_written_text_around_the_markers_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("RESULTS.md");
        let results: Results = serde_json::from_str(
            r#"{"facts":{"processor":"p","kernel":"k","commit":"c","load":"l","profile":"release","usable_cores":2,
                "cores":[0,1],"runs":1,"smoke":true,"clock_ns":20},"seconds":1,"contenders":[],"not_running":
                [{"name":"aeron","reason":"no cmake"}],"laps":[]}"#,
        )
        .unwrap();
        fs::write(&file, "before\n").unwrap();
        write_between_markers(&file, &results).unwrap();
        let once = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{once}after\n")).unwrap();
        write_between_markers(&file, &results).unwrap();
        let twice = fs::read_to_string(&file).unwrap();
        assert_eq!(twice, format!("{once}after\n"));
        assert!(twice.starts_with("before\n") && twice.contains("**aeron**: no cmake"), "{twice}");
    }
}
