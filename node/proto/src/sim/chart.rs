//! How costs grow with the mesh, as a small picture: SVG by hand, readable on light and on dark.

use std::fmt::Write;

use super::report::{Report, Success};

const WIDTH: f64 = 220.0;
const HEIGHT: f64 = 150.0;
const MARGIN: f64 = 46.0;

/// One small chart a number, the reports along the axis in the order in which they are given.
#[must_use]
pub fn svg(reports: &[Report]) -> String {
    type Number = fn(&Report) -> f64;
    let panels: [(&str, Number); 6] = [
        ("rounds of a lookup, p99", |it| it.rounds.p99),
        ("nodes asked by a lookup, p99", |it| it.asked.p99),
        ("lookups that succeed, %", |it| 100.0 * Success::share(it.meanwhile.values)),
        ("bytes/s a node, at rest", |it| it.rest.all_bytes()),
        ("bytes/s a node, announced", |it| it.announced.all_bytes()),
        ("KiB of memory a node", |it| it.memory / 1024.0),
    ];
    let (across, down) = (3, panels.len().div_ceil(3));
    let (width, height) =
        (across as f64 * (WIDTH + MARGIN), down as f64 * (HEIGHT + MARGIN) + 20.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"system-ui,sans-serif\" font-size=\"11\">\n\
         <style>text{{fill:#333}}.a{{stroke:#999;fill:none}}.l{{stroke:#2a7;stroke-width:2;fill:none}}\
         .p{{fill:#2a7}}@media(prefers-color-scheme:dark){{text{{fill:#ddd}}.a{{stroke:#777}}\
         .l{{stroke:#5d9}}.p{{fill:#5d9}}}}</style>\n\
         <!-- Printed by make sim; not to be edited. -->\n"
    );
    for (at, (title, number)) in panels.iter().enumerate() {
        let x = (at % across) as f64 * (WIDTH + MARGIN) + MARGIN / 2.0;
        let y = (at / across) as f64 * (HEIGHT + MARGIN) + 24.0;
        panel(&mut out, (x, y), title, reports, *number);
    }
    out.push_str("</svg>\n");
    out
}

fn panel(
    out: &mut String,
    (x, y): (f64, f64),
    title: &str,
    reports: &[Report],
    number: fn(&Report) -> f64,
) {
    let numbers: Vec<f64> = reports.iter().map(number).collect();
    let most = numbers.iter().copied().fold(1.0, f64::max) * 1.15;
    let step = WIDTH / reports.len().max(1) as f64;
    let place =
        |at: usize| (x + step * (at as f64 + 0.5), y + HEIGHT - HEIGHT * numbers[at] / most);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "<text x=\"{x}\" y=\"{}\" font-weight=\"600\">{title}</text>", y - 8.0);
    let _ = writeln!(out, "<path class=\"a\" d=\"M{x} {y}V{}H{}\"/>", y + HEIGHT, x + WIDTH);
    let points: Vec<String> =
        (0..numbers.len()).map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(out, "<polyline class=\"l\" points=\"{}\"/>", points.join(" "));
    for (at, report) in reports.iter().enumerate() {
        let (px, py) = place(at);
        let value = numbers[at];
        let digits = usize::from(value < 10.0 && value.fract() != 0.0);
        let _ = writeln!(
            out,
            "<circle class=\"p\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\"/>\
             <text x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.digits$}</text>\
             <text x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            py - 7.0,
            y + HEIGHT + 14.0,
            report.nodes
        );
    }
}
