//! Rows of what was measured, ours and, where it was asked, a rival's.

use std::time::Duration;

/// Prints the name of a table, and what its columns are.
pub(crate) fn head(what: &str) {
    if cfg!(feature = "rivals") {
        println!("\n{what:<54} {:>10} {:>12} {:>8}", "ours", "libp2p-kad", "ratio");
    } else {
        println!("\n{what:<54} {:>10}", "ours");
    }
}

/// Prints one row, with what a rival came to where one was asked; and what must be known of it.
pub(crate) fn row(what: &str, ours: f64, theirs: Option<f64>, note: &str) {
    let mut line = format!("  {what:<52} {:>10}", number(ours));
    if let Some(theirs) = theirs {
        line += &format!(" {:>12} {:>8}", number(theirs), ratio(ours / theirs));
    }
    if cfg!(feature = "rivals") && !note.is_empty() {
        line += &format!("  {note}");
    }
    println!("{line}");
}

/// How many in a second.
pub(crate) fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn number(value: f64) -> String {
    match value {
        _ if value < 10.0 => format!("{value:.2}"),
        _ if value < 100.0 => format!("{value:.1}"),
        _ => grouped(value),
    }
}

fn ratio(value: f64) -> String {
    if value < 0.1 { format!("{value:.4}x") } else { format!("{value:.2}x") }
}

/// 1234567 as 1,234,567.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// On what all of this runs.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").ok();
    let load = load.as_deref().and_then(|load| load.split(' ').next());
    let load = load.map(|load| format!(", load {load} at the start")).unwrap_or_default();
    let system = (std::env::consts::OS, std::env::consts::ARCH);
    format!("one machine for all: {cores} cores, {} {}{load}", system.0, system.1)
}
