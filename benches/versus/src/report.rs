//! The page: one file, its charts drawn as SVG by hand, readable in light and in dark. No script,
//! nothing from elsewhere.

use std::fmt::Write;

use crate::measure::table::{micros, rate};
use crate::results::{PAYLOADS, Results, Subject, WINDOWS};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 46.0;

const STYLE: &str = "
:root { color-scheme: light dark; --page: #fcfcfb; --ink: #1c1e21; --soft: #5b6168; --line: #d8dbdf;
  --s0: #0a58ca; --s1: #6d3fc4; --s2: #b08be0; --s3: #0b8a8f; --s4: #94701d; --s5: #d9480f;
  --s6: #c2255c; --s7: #4a5056; }
@media (prefers-color-scheme: dark) { :root { --page: #16181b; --ink: #e8eaed; --soft: #a3a9b0;
  --line: #363b41;
  --s0: #6ea8fe; --s1: #a98bf5; --s2: #d9c8ff; --s3: #3bc9db; --s4: #e9c46a; --s5: #ff922b;
  --s6: #f783ac; --s7: #c4cad0; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
  p, li { color: var(--soft); } li b { color: var(--ink); }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; flex: 1 1 480px; }
  figcaption { font-weight: 600; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft);
  font: 11px system-ui, sans-serif; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
  .legend i { display: inline-block; width: 1.6em; margin-right: .4em; vertical-align: middle; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0;
  font-variant-numeric: tabular-nums; } td, th { padding: .25rem .7rem; text-align: right;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
td:first-child, th:first-child, td.text { text-align: left; } td.best { font-weight: 700; }
  td small { color: var(--soft); }
";

pub(crate) fn page(results: &Results) -> String {
    let mut page = String::new();
    let Results { date, machine, rounds, time, .. } = results;
    put(
        &mut page,
        format_args!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\">\n"
        ),
    );
    put(
        &mut page,
        format_args!(
            "<title>dledger beside others</title>\n<style>{STYLE}</style>\n\
             <h1>dledger beside others</h1>\n"
        ),
    );
    put(
        &mut page,
        format_args!(
            "<p>{}. {}.<br>Medians of {rounds} rounds of {} ms for each load, one subject after \
             the other. All nodes and the caller share this one machine.</p>\n",
            text(date),
            text(machine),
            time.as_millis()
        ),
    );
    page += &legend(&results.subjects);
    page += "<h2>Appends a second, by appends in flight</h2>\n<div class=\"charts\">\n";
    for (bytes, name) in PAYLOADS {
        page += &throughput(&results.subjects, bytes, name);
    }
    page += "</div>\n";
    for (bytes, name) in PAYLOADS {
        page += &table(&results.subjects, bytes, name);
    }
    page += "<h2>Latency of an append of 1 KiB: how many were acknowledged by then</h2>\n\
        <div class=\"charts\">\n";
    for window in WINDOWS {
        page += &latencies(&results.subjects, 1 << 10, window);
    }
    page += "</div>\n";
    if !results.gets.is_empty() {
        page += "<h2>Random get of 1 KiB, one at a time</h2>\n\
            <table><tr><th></th><th>ns</th><th>verifies</th></tr>\n";
        for (name, verifies, nanos) in &results.gets {
            put(
                &mut page,
                format_args!(
                    "<tr><td>{name}</td><td>{nanos:.0}</td>\
                     <td class=\"text\">{verifies}</td></tr>\n"
                ),
            );
        }
        page += "</table>\n";
    }
    page += "<h2>What each figure means, and what it does not</h2>\n<ul>\n";
    for subject in &results.subjects {
        put(
            &mut page,
            format_args!(
                "<li><b>{} {}</b>: {}.</li>\n",
                subject.name,
                text(&subject.version),
                subject.means
            ),
        );
    }
    page += "<li>In memory, nothing waits for a disk; a single node waits for no other: compare \
        like with like. Replicas that share one disk and two cores would, on three machines, have \
        three of each, and a network between them.</li>\n</ul>\n</html>\n";
    page
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes everything");
}

fn text(raw: &str) -> String {
    raw.replace('&', "&amp;").replace('<', "&lt;")
}

fn is_ours(subject: &Subject) -> bool {
    subject.name.starts_with("dledger")
}

fn thickness(subject: &Subject) -> f64 {
    if is_ours(subject) { 3.0 } else { 1.7 }
}

fn legend(subjects: &[Subject]) -> String {
    let mut list = "<ul class=\"legend\">\n".to_owned();
    for (at, subject) in subjects.iter().enumerate() {
        let missing = if subject.cells.is_empty() { " (not found here)" } else { "" };
        let height = thickness(subject);
        put(
            &mut list,
            format_args!(
                "<li><i style=\"border-top: {height}px solid var(--s{at})\"></i>{} \
                 {}{missing}</li>\n",
                subject.name,
                text(&subject.version)
            ),
        );
    }
    list + "</ul>\n"
}

fn table(subjects: &[Subject], bytes: usize, name: &str) -> String {
    let mut table = format!(
        "<div class=\"scroll\"><table><tr><th>{name}: appends/s <small>p50, p99 us</small></th>"
    );
    WINDOWS.iter().for_each(|window| put(&mut table, format_args!("<th>{window} in flight</th>")));
    table += "</tr>\n";
    let best = |window| {
        subjects
            .iter()
            .filter_map(|subject| subject.cell(bytes, window))
            .map(|cell| cell.per_second())
            .fold(0.0, f64::max)
    };
    for subject in subjects {
        put(&mut table, format_args!("<tr><td>{} {}</td>", subject.name, text(&subject.version)));
        for window in WINDOWS {
            let Some(cell) = subject.cell(bytes, window) else {
                table += "<td>-</td>";
                continue;
            };
            let (per_second, latency) = (cell.per_second(), cell.latency());
            let class = if per_second >= best(window) { " class=\"best\"" } else { "" };
            let (p50, p99) =
                (micros(latency.value_at_quantile(0.5)), micros(latency.value_at_quantile(0.99)));
            put(
                &mut table,
                format_args!("<td{class}>{} <small>{p50}, {p99}</small></td>", rate(per_second)),
            );
        }
        table += "</tr>\n";
    }
    table + "</table></div>\n"
}

fn throughput(subjects: &[Subject], bytes: usize, name: &str) -> String {
    let x = Axis {
        min: 0.8,
        max: 1300.0,
        log: true,
        ticks: WINDOWS.iter().map(|window| (*window as f64, window.to_string())).collect(),
        label: "in flight",
    };
    let rates: Vec<f64> = subjects
        .iter()
        .flat_map(|subject| &subject.cells)
        .filter(|cell| cell.bytes == bytes)
        .map(|cell| cell.per_second())
        .collect();
    let y = Axis::decades(rates.into_iter(), "appends/s", rate);
    let mut chart = Chart::new(&format!("{name}, both axes logarithmic"), x, y);
    for (at, subject) in subjects.iter().enumerate() {
        let points: Vec<(f64, f64)> = WINDOWS
            .iter()
            .filter_map(|window| Some((*window as f64, subject.cell(bytes, *window)?.per_second())))
            .collect();
        chart.line(at, subject, &points, true);
    }
    chart.finish()
}

fn latencies(subjects: &[Subject], bytes: usize, window: usize) -> String {
    let curves: Vec<(usize, &Subject, Vec<(f64, f64)>)> = subjects
        .iter()
        .enumerate()
        .filter_map(|(at, subject)| {
            let latency = subject.cell(bytes, window)?.latency();
            let step = |permille: u32| {
                (
                    latency.value_at_quantile(f64::from(permille) / 1000.0) as f64 / 1e3,
                    f64::from(permille) / 10.0,
                )
            };
            Some((
                at,
                subject,
                (1..100).map(|percent| step(percent * 10)).chain([995, 999].map(step)).collect(),
            ))
        })
        .collect();
    let x = Axis::decades(
        curves.iter().flat_map(|(.., points)| points.iter().map(|point| point.0)),
        "from the call to the answer",
        |micros| match micros {
            micros if micros >= 1000.0 => format!("{:.0} ms", micros / 1000.0),
            micros => format!("{micros:.0} us"),
        },
    );
    let ticks =
        [0, 25, 50, 75, 100].map(|percent| (f64::from(percent), format!("{percent} %"))).to_vec();
    let mut chart = Chart::new(
        &format!("{window} in flight"),
        x,
        Axis { min: 0.0, max: 100.0, log: false, ticks, label: "" },
    );
    for (at, subject, points) in &curves {
        chart.line(*at, subject, points, false);
    }
    chart.finish()
}

struct Axis {
    min: f64,
    max: f64,
    log: bool,
    ticks: Vec<(f64, String)>,
    label: &'static str,
}

impl Axis {
    /// From one power of ten to another, around all `values`.
    fn decades(
        values: impl Iterator<Item = f64>,
        label: &'static str,
        name: impl Fn(f64) -> String,
    ) -> Axis {
        let (least, most) = values
            .filter(|value| *value > 0.0)
            .fold((f64::INFINITY, 0.0_f64), |(least, most), value| {
                (least.min(value), most.max(value))
            });
        let (low, high) = if most > 0.0 {
            (least.log10().floor() as i32, most.log10().ceil() as i32)
        } else {
            (0, 1)
        };
        let ticks = (low..=high.max(low + 1))
            .map(|power| (10.0_f64.powi(power), name(10.0_f64.powi(power))))
            .collect();
        Axis {
            min: 10.0_f64.powi(low),
            max: 10.0_f64.powi(high.max(low + 1)),
            log: true,
            ticks,
            label,
        }
    }

    /// Where `value` is, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.log { value.max(self.min).log10() } else { value };
        (scale(value) - scale(self.min)) / (scale(self.max) - scale(self.min))
    }
}

struct Chart {
    x: Axis,
    y: Axis,
    svg: String,
}

impl Chart {
    fn new(caption: &str, x: Axis, y: Axis) -> Chart {
        let svg = format!(
            "<figure><figcaption>{caption}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             role=\"img\" aria-label=\"{caption}\">\n"
        );
        let mut chart = Chart { x, y, svg };
        chart.axes();
        chart
    }

    fn axes(&mut self) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let Chart { x, y, svg } = self;
        for (value, name) in &y.ticks {
            let at = place_y(y, *value);
            put(
                svg,
                format_args!(
                    "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" \
                     stroke=\"var(--line)\"/>"
                ),
            );
            put(
                svg,
                format_args!(
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>\n",
                    LEFT - 6.0,
                    at + 4.0
                ),
            );
        }
        for (value, name) in &x.ticks {
            let at = place_x(x, *value);
            put(
                svg,
                format_args!(
                    "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" \
                     stroke=\"var(--line)\"/>"
                ),
            );
            put(
                svg,
                format_args!(
                    "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>\n",
                    bottom + 16.0
                ),
            );
        }
        put(
            svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                (LEFT + right) / 2.0,
                HEIGHT - 10.0,
                x.label
            ),
        );
        put(
            svg,
            format_args!(
                "<text x=\"{LEFT}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                TOP - 14.0,
                y.label
            ),
        );
    }

    fn line(&mut self, at: usize, subject: &Subject, points: &[(f64, f64)], dots: bool) {
        if points.is_empty() {
            return;
        }
        let places: Vec<(f64, f64)> =
            points.iter().map(|(x, y)| (place_x(&self.x, *x), place_y(&self.y, *y))).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        put(
            &mut self.svg,
            format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"var(--s{at})\" stroke-width=\"{}\" \
                 stroke-linejoin=\"round\"><title>{}</title></polyline>\n",
                path.join(" "),
                thickness(subject),
                subject.name
            ),
        );
        for ((x, y), (_, value)) in places.iter().zip(points).filter(|_| dots) {
            put(
                &mut self.svg,
                format_args!(
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" \
                     fill=\"var(--s{at})\"><title>{}: {}</title></circle>\n",
                    subject.name,
                    rate(*value)
                ),
            );
        }
    }

    fn finish(self) -> String {
        self.svg + "</svg></figure>\n"
    }
}

fn place_x(axis: &Axis, value: f64) -> f64 {
    LEFT + axis.share(value) * (WIDTH - RIGHT - LEFT)
}

fn place_y(axis: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - BOTTOM - TOP)
}
