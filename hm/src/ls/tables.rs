//! The report as three tables of text.
use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use hivemind::Listing;
use hivemind_look::figures::{Bytes, Count};

use super::report::Report;
use crate::Place;

pub(super) fn print(
    report: &Report,
    out: &mut impl Write,
    place: &Place,
    listing: &Listing,
) -> io::Result<()> {
    writeln!(out, "hive {}, root {} (epoch {})\n", place.hive, listing.root_pid, listing.root_epoch)?;
    show(out, &nodes(report))?;
    show(out, &services(report))?;
    show(out, &subscriptions(report))
}

fn nodes(report: &Report) -> Table {
    let mut nodes = table(&["NODE", "PID", "PUBLISHERS", "SUBSCRIPTIONS", ""], &[1, 2, 3]);
    for row in &report.nodes {
        nodes.add_row([
            row.node.clone(),
            row.pid.to_string(),
            row.publishers.to_string(),
            row.subscriptions.to_string(),
            if row.hosts_root { "hosts the root" } else { "" }.to_owned(),
        ]);
    }
    nodes
}

fn services(report: &Report) -> Table {
    let heads =
        ["SERVICE", "TYPE", "NODE", "KIND", "CAPACITY", "PUBLISHED", "PER SECOND", "MEMORY", "SUBSCRIBERS"];
    let mut services = table(&heads, &[4, 5, 6, 7, 8]);
    for row in &report.services {
        services.add_row([
            row.service.clone(),
            row.type_name.clone(),
            row.node.clone(),
            row.kind(),
            Count(row.capacity).to_string(),
            Count(row.published).to_string(),
            per_second(row.per_second),
            Bytes(row.memory_bytes as f64).to_string(),
            row.subscribers.to_string(),
        ]);
    }
    services
}

fn subscriptions(report: &Report) -> Table {
    let heads =
        ["FILTER", "SUBSCRIBER", "SERVICE", "FROM", "RECEIVED", "PER SECOND", "LAG", "LOST", "HELD", ""];
    let mut subscriptions = table(&heads, &[4, 5, 6, 7, 8]);
    for row in &report.subscriptions {
        let mut cells = vec![row.filter.clone(), row.node.clone()];
        match (&row.connection, &row.does_not_fit) {
            (Some(connection), _) => cells.extend([
                connection.service.clone(),
                connection.publisher_node.clone(),
                Count(connection.received).to_string(),
                per_second(connection.per_second),
                Count(connection.lag).to_string(),
                Count(connection.lost).to_string(),
                connection.held.to_string(),
                if connection.sleeping { "sleeps" } else { "" }.to_owned(),
            ]),
            (None, Some(other)) => {
                cells.extend([other.service.clone(), other.publisher_node.clone()]);
                cells.extend(std::iter::repeat_n(String::new(), 5));
                cells.push(other.text());
            }
            (None, None) => cells.push("(nobody publishes)".to_owned()),
        }
        subscriptions.add_row(cells);
    }
    subscriptions
}

fn per_second(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        // Slow services are as interesting as fast ones.
        Some(rate) if rate > 0.0 && rate < 99.95 => format!("{rate:.1}"),
        Some(rate) => Count(rate.round() as u64).to_string(),
    }
}

/// An empty table; the columns in `right` hold figures.
fn table(heads: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // A line that is longer than the terminal is wide is for the terminal to wrap: a program may read this.
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads.iter().map(Cell::new));
    for &column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn show(out: &mut impl Write, table: &Table) -> io::Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim())?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short_and_slow_ones_keep_a_digit() {
        let rates = [None, Some(0.0), Some(0.25), Some(29.97), Some(20_000.4)];
        assert_eq!(rates.map(per_second), ["-", "0", "0.2", "30.0", "20,000"]);
    }
}
