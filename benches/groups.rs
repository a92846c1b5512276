//! What many groups in one process cost: three hosts on loopback TCP, a process each. Every figure
//! is printed beside its goal.
//!
//! ```sh
//! cargo bench --bench groups -- [--pairs 5] [--seconds 1] [--divide 1] [--date 2026-11-30] \
//!   [awake] [asleep] [many] [busy] [alone] [quiet] [failover]
//! ```
//!
//! Without names all rows are taken. `--divide 10` takes a tenth of the groups everywhere. With
//! `--smoke`, and without `--bench`, which `cargo bench` adds, it only shows that every row runs.

#[cfg(unix)]
#[path = "groups/hosts.rs"]
mod hosts;
mod measure;
#[cfg(unix)]
#[path = "groups/served_host.rs"]
mod served_host;

#[cfg(unix)]
mod many_groups {
    use std::str::FromStr;
    use std::thread;
    use std::time::Duration;

    use dledger::FlushPolicy;

    use crate::hosts::Hosts;
    use crate::measure::machine;
    use crate::measure::processes::{Processes, serve_as_member};
    use crate::measure::scratch::scratch;
    use crate::measure::table::{Table, median, micros, rate};
    use crate::served_host::serve_as_host;

    /// How much of everything.
    struct Plan {
        date: String,
        pairs: usize,
        /// Of one turn.
        time: Duration,
        /// Of a figure of idle groups.
        idle: Duration,
        divide: usize,
        wanted: Vec<String>,
    }

    type Row = fn(&Plan, &mut Table);

    const ROWS: [(&str, Row); 7] = [
        ("awake", awake),
        ("asleep", asleep),
        ("many", many),
        ("busy", busy),
        ("alone", alone),
        ("quiet", quiet),
        ("failover", failover),
    ];

    /// The default of a host.
    const SLEEP_AFTER: Option<Duration> = Some(Duration::from_secs(3));

    /// Appends in flight over all busy groups.
    const WINDOW: usize = 1024;

    pub(super) fn main() {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        if serve_as_host(&arguments) || serve_as_member(&arguments) {
            return;
        }
        let plan = Plan::from_arguments(arguments.into_iter());
        println!("dledger {}, {}", env!("CARGO_PKG_VERSION"), plan.date);
        println!("{}", machine::describe(scratch().path()));
        println!("Load before: {}\n", machine::load().unwrap_or_else(|| "?".to_owned()));
        let mut table = Table::new(&["many groups", "figure", "goal"]);
        for (name, take) in ROWS {
            if plan.wanted.is_empty() || plan.wanted.iter().any(|wanted| wanted == name) {
                eprintln!("{name} ..");
                take(&plan, &mut table);
            }
        }
        table.print();
        println!("Load after: {}", machine::load().unwrap_or_else(|| "?".to_owned()));
    }

    impl Plan {
        fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Plan {
            let mut plan = Plan {
                date: "undated".to_owned(),
                pairs: 5,
                time: Duration::from_secs(1),
                idle: Duration::from_secs(10),
                divide: 1,
                wanted: Vec::new(),
            };
            let (mut real, mut smoke) = (false, false);
            while let Some(argument) = arguments.next() {
                match argument.as_str() {
                    "--bench" => real = true,
                    "--test" | "--smoke" => smoke = true,
                    "--date" => plan.date = value(&argument, arguments.next()),
                    "--pairs" => plan.pairs = value(&argument, arguments.next()),
                    "--divide" => plan.divide = value(&argument, arguments.next()),
                    "--seconds" => {
                        plan.time = Duration::from_secs_f64(value(&argument, arguments.next()));
                    }
                    _ => plan.wanted.push(argument),
                }
            }
            if smoke || !real {
                (plan.pairs, plan.divide) = (1, 250);
                (plan.time, plan.idle) = (Duration::from_millis(50), Duration::from_millis(50));
            }
            plan
        }

        fn groups(&self, groups: usize) -> usize {
            (groups / self.divide).max(2)
        }
    }

    fn value<T: FromStr>(name: &str, text: Option<String>) -> T {
        let Some(value) = text.as_deref().and_then(|text| text.parse().ok()) else {
            panic!("{name} needs a value, not {text:?}")
        };
        value
    }

    /// One line of the table.
    fn line(table: &mut Table, what: String, figure: String, goal: String, is_met: bool) {
        let goal =
            if goal.is_empty() { goal } else { goal + if is_met { " met" } else { " MISSED" } };
        table.row([what, figure, goal]);
    }

    /// A figure that is to be at most so much.
    fn at_most(table: &mut Table, what: String, figure: f64, most: f64, unit: &str) {
        let digits = if most < 1.0 { 3 } else { usize::from(most < 100.0) };
        let goal = format!("<= {most}{unit}");
        line(table, what, format!("{figure:.digits$}{unit}"), goal, figure <= most);
    }

    fn note(table: &mut Table, what: String, figure: String) {
        line(table, what, figure, String::new(), true);
    }

    fn awake(plan: &Plan, table: &mut Table) {
        let groups = plan.groups(1000);
        let mut hosts = Hosts::start(None);
        let opened = hosts.open(groups);
        hosts.place(groups, "spread");
        hosts.touch();
        thread::sleep(plan.idle / 3);
        let cores = hosts.cores(plan.idle);
        let usage = hosts.usage();
        let most = |of: fn(&crate::hosts::HostUsage) -> u64| {
            usage.iter().map(of).max().unwrap_or(0) as f64
        };
        let what = |what: &str| format!("{groups} groups, idle, all awake: {what}");
        note(table, what("made and open"), format!("{:.1} s", opened.as_secs_f64()));
        at_most(table, what("% of a core"), 100.0 * cores, 8.0, " %");
        at_most(table, what("threads"), most(|usage| usage.threads), 30.0, "");
        at_most(table, what("descriptors"), most(|usage| usage.descriptors), 2100.0, "");
    }

    fn asleep(plan: &Plan, table: &mut Table) {
        let groups = plan.groups(1000);
        let mut hosts = Hosts::start(SLEEP_AFTER);
        let before = hosts.usage();
        hosts.open(groups);
        hosts.place(groups, "spread");
        hosts.touch();
        hosts.wait_until_asleep(groups);
        thread::sleep(plan.idle / 5);
        let cores = hosts.cores(plan.idle);
        let after = hosts.usage();
        let each = |of: fn(&crate::hosts::HostUsage) -> u64| {
            let grown = before.iter().zip(&after).map(|(before, after)| of(after) - of(before));
            grown.max().unwrap_or(0) as f64 / groups as f64 / 1024.0
        };
        let what = |what: &str| format!("{groups} groups, asleep: {what}");
        at_most(table, what("% of a core"), 100.0 * cores, 0.3, " %");
        at_most(table, what("heap a group"), each(|usage| usage.heap_bytes), 24.0, " KiB");
        let resident = each(|usage| usage.resident_bytes);
        note(table, what("anonymous memory a group"), format!("{resident:.1} KiB"));
        let disk = hosts.disk_bytes() as f64 / groups as f64 / 1024.0;
        at_most(table, what("disk a group"), disk, 300.0, " KiB");
    }

    fn many(plan: &Plan, table: &mut Table) {
        // As many as the descriptors of a process suffice for, where it may not raise its limit.
        let most = machine::raise_descriptors().saturating_sub(200) / 2;
        let groups = plan.groups(10_000).min(most as usize);
        let mut hosts = Hosts::start(SLEEP_AFTER);
        let made = hosts.open(groups);
        hosts.restart();
        let opened = hosts.open_all();
        hosts.wait_for_leaders(groups);
        hosts.wait_until_asleep(groups);
        thread::sleep(plan.idle / 5);
        let cores = hosts.cores(plan.idle);
        let what = |what: &str| format!("{groups} groups: {what}");
        note(table, what("made"), format!("{:.1} s", made.as_secs_f64()));
        at_most(table, what("opened again, all three at once"), opened.as_secs_f64(), 20.0, " s");
        at_most(table, what("% of a core, asleep"), 100.0 * cores, 1.0, " %");
    }

    fn busy(plan: &Plan, table: &mut Table) {
        const BYTES: usize = 1 << 10;
        let mut hosts = Hosts::start(SLEEP_AFTER);
        hosts.open(plan.groups(256));
        hosts.place(plan.groups(256), "1");
        let mut append = |groups| hosts.append(groups, BYTES, WINDOW, plan.time);
        append(plan.groups(256));
        for (groups, least) in [(16, 0.7), (64, 0.5), (256, 0.25)] {
            let groups = plan.groups(groups);
            let pairs = (0..plan.pairs).map(|_| (append(1), append(groups)));
            let (one, all): (Vec<f64>, Vec<f64>) = pairs.unzip();
            let figure = beside(&all, &one);
            let what = format!("1 KiB over {groups} groups, beside one");
            let ratio = median(&ratios(&all, &one));
            line(table, what, figure, format!(">= {least}"), ratio >= least);
        }
    }

    fn alone(plan: &Plan, table: &mut Table) {
        const BYTES: usize = 128;
        let mut hosts = Hosts::start(SLEEP_AFTER);
        hosts.open(1);
        hosts.place(1, "1");
        let mut processes = Processes::start(FlushPolicy::Sync, None);
        let mut pair = |time| {
            let lone = processes.append(BYTES, WINDOW, time).per_second;
            processes.purge();
            (hosts.append(1, BYTES, WINDOW, time), lone)
        };
        pair(plan.time);
        let (ours, lone): (Vec<f64>, Vec<f64>) = (0..plan.pairs).map(|_| pair(plan.time)).unzip();
        let what = "128 B, one group of a host beside a lone node".to_owned();
        let ratio = median(&ratios(&ours, &lone));
        line(table, what, beside(&ours, &lone), ">= 0.95".to_owned(), ratio >= 0.95);
    }

    fn quiet(plan: &Plan, table: &mut Table) {
        const QUIET: usize = 10;
        // New hosts for each pair: for seconds after a load the disk writes back what it left.
        let pair = |_| {
            let mut hosts = Hosts::start(SLEEP_AFTER);
            hosts.open(QUIET + 1);
            hosts.place(QUIET + 1, "1");
            let mut p99 = |window| {
                let latency = hosts.quiet(QUIET, window, 2 * plan.time);
                latency.value_at_quantile(0.99) as f64
            };
            p99(0);
            (p99(0), p99(WINDOW))
        };
        let pairs = (0..plan.pairs).map(pair);
        let (calm, beside_load): (Vec<f64>, Vec<f64>) = pairs.unzip();
        let ratio = median(&ratios(&beside_load, &calm));
        let us = |nanos: f64| micros(nanos as u64);
        let figure = format!(
            "{ratio:.1} times ({} us, alone {} us)",
            us(median(&beside_load)),
            us(median(&calm))
        );
        let what = "p99 of ten quiet groups beside a busy one".to_owned();
        line(table, what, figure, "<= 3 times".to_owned(), ratio <= 3.0);
    }

    /// Of groups that were awake, and of such that slept.
    fn failover(plan: &Plan, table: &mut Table) {
        let groups = plan.groups(300);
        for (state, sleep_after) in [("awake", None), ("asleep", SLEEP_AFTER)] {
            let mut hosts = Hosts::start(sleep_after);
            hosts.open(groups);
            hosts.place(groups, "1");
            hosts.touch();
            match sleep_after {
                None => thread::sleep(plan.idle / 5),
                Some(_) => hosts.wait_until_asleep(groups),
            }
            let took = hosts.kill_the_leader(groups);
            let what =
                |what: &str| format!("{groups} groups whose leader is killed, {state}: {what}");
            let back = format!("{} back", took.len());
            line(table, what("all are back"), back, format!("{groups}"), took.len() == groups);
            if took.is_empty() {
                continue;
            }
            let seconds: Vec<f64> = took.iter().map(Duration::as_secs_f64).collect();
            let worst = seconds.iter().copied().fold(0.0, f64::max);
            at_most(table, what("median"), median(&seconds), 1.5, " s");
            at_most(table, what("the last"), worst, 2.0, " s");
        }
    }

    fn ratios(ours: &[f64], others: &[f64]) -> Vec<f64> {
        ours.iter().zip(others).map(|(ours, other)| ours / other).collect()
    }

    fn beside(ours: &[f64], others: &[f64]) -> String {
        let ratios = ratios(ours, others);
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        format!(
            "{:.2} ({least:.2} to {most:.2}; {} beside {})",
            median(&ratios),
            rate(median(ours)),
            rate(median(others))
        )
    }
}

#[cfg(unix)]
fn main() {
    many_groups::main();
}

#[cfg(not(unix))]
fn main() {
    println!("The figures of many groups are taken on Linux.");
}
