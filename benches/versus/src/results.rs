//! What came out, and the table of it.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::gets::Row;
use crate::measure::table::{Table, median, micros, rate};
use crate::measure::turn::{Turn, no_latencies};

pub(crate) const PAYLOADS: [(usize, &str); 2] = [(128, "128 B"), (1 << 10, "1 KiB")];
pub(crate) const WINDOWS: [usize; 4] = [1, 64, 256, 1024];

pub(crate) struct Results {
    pub(crate) date: String,
    pub(crate) machine: String,
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    pub(crate) subjects: Vec<Subject>,
    pub(crate) gets: Vec<Row>,
}

pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) means: &'static str,
    pub(crate) version: String,
    /// Empty if it was not to be had.
    pub(crate) cells: Vec<Cell>,
}

/// One load on one of them, over all rounds.
pub(crate) struct Cell {
    pub(crate) bytes: usize,
    pub(crate) window: usize,
    pub(crate) turns: Vec<Turn>,
}

impl Cell {
    /// The cell of this load, made if it is not there.
    pub(crate) fn of(cells: &mut Vec<Cell>, bytes: usize, window: usize) -> &mut Cell {
        let at = cells.iter().position(|cell| (cell.bytes, cell.window) == (bytes, window));
        let at = at.unwrap_or_else(|| {
            cells.push(Cell { bytes, window, turns: Vec::new() });
            cells.len() - 1
        });
        &mut cells[at]
    }

    pub(crate) fn per_second(&self) -> f64 {
        median(&self.turns.iter().map(|turn| turn.per_second).collect::<Vec<_>>())
    }

    pub(crate) fn latency(&self) -> Histogram<u64> {
        let mut all = no_latencies();
        self.turns.iter().for_each(|turn| all.add(&turn.latency).expect("it resizes"));
        all
    }
}

impl Subject {
    pub(crate) fn cell(&self, bytes: usize, window: usize) -> Option<&Cell> {
        self.cells.iter().find(|cell| (cell.bytes, cell.window) == (bytes, window))
    }
}

impl Results {
    pub(crate) fn print(&self) {
        println!("versus, {}\n{}\n", self.date, self.machine);
        for (bytes, name) in PAYLOADS {
            let head = format!("appends/s of {name} (p50 us)");
            let columns: Vec<String> =
                WINDOWS.iter().map(|window| format!("{window} in flight")).collect();
            let mut table =
                Table::new(&[&head, &columns[0], &columns[1], &columns[2], &columns[3]]);
            for subject in &self.subjects {
                let cell = |window: usize| match subject.cell(bytes, window) {
                    Some(cell) => format!(
                        "{} ({})",
                        rate(cell.per_second()),
                        micros(cell.latency().value_at_quantile(0.5))
                    ),
                    None => "-".to_owned(),
                };
                let [a, b, c, d] = WINDOWS.map(cell);
                table.row([format!("{} {}", subject.name, subject.version), a, b, c, d]);
            }
            table.print();
        }
        if !self.gets.is_empty() {
            let mut table = Table::new(&["random get of 1 KiB", "ns", "verifies"]);
            for (name, verifies, nanos) in &self.gets {
                table.row([(*name).to_owned(), format!("{nanos:.0}"), (*verifies).to_owned()]);
            }
            table.print();
        }
        for subject in &self.subjects {
            println!("- {}: {}", subject.name, subject.means);
        }
        println!(
            "\nMedians of {} rounds of {} ms for each load, one subject after the other.",
            self.rounds,
            self.time.as_millis()
        );
    }
}
