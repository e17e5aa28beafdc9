//! Many runs, one for each number of clients.

use std::str::FromStr;

use super::report::{Report, Share};
use crate::duration::short;
use crate::output::thousands;

/// Numbers of clients, in rising order: `1,4,16` or `1,2,4,...,256`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sweep(pub(super) Vec<u32>);

/// More clients there cannot be.
const CLIENTS_MAX: u32 = 16_384;
/// More runs are no sweep but a mistake.
const RUNS_MAX: usize = 64;

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut counts: Vec<u32> = Vec::new();
        let mut go_on = None;
        for word in text.split(',').map(str::trim) {
            if matches!(word, "..." | "…") {
                go_on = Some(rule(&counts)?);
                continue;
            }
            let count = word.parse().ok();
            let count = count.filter(|count| (1..=CLIENTS_MAX).contains(count));
            let count = count.ok_or_else(|| {
                format!("\"{word}\" is no number from 1 to {CLIENTS_MAX}, as in 1,4,16")
            })?;
            if counts.last().is_some_and(|&last| last >= count) {
                return Err(format!("{count} does not rise: say 1,4,16"));
            }
            if let Some(rule) = go_on.take() {
                fill(&mut counts, rule, count)?;
            } else {
                counts.push(count);
            }
            if counts.len() > RUNS_MAX {
                return Err(format!("more than {RUNS_MAX} runs"));
            }
        }
        if go_on.is_some() {
            return Err("it ends with dots: say where, as in 1,2,4,...,256".into());
        }
        Ok(Self(counts))
    }
}

/// How a sequence goes on.
#[derive(Clone, Copy, Debug)]
enum Rule {
    Times(u32),
    Plus(u32),
}

/// Three numbers tell.
fn rule(counts: &[u32]) -> Result<Rule, String> {
    if let [.., a, b, c] = *counts {
        if c - b == b - a {
            return Ok(Rule::Plus(c - b));
        }
        if b % a == 0 && b.checked_mul(b / a) == Some(c) {
            return Ok(Rule::Times(b / a));
        }
    }
    Err("three numbers have to tell how it goes on, as in 1,2,4,...,256 or 8,16,24,...,64".into())
}

fn fill(counts: &mut Vec<u32>, rule: Rule, end: u32) -> Result<(), String> {
    let mut count = counts.last().copied().unwrap_or(0);
    while count < end && counts.len() <= RUNS_MAX {
        count = match rule {
            Rule::Times(factor) => count.saturating_mul(factor),
            Rule::Plus(step) => count.saturating_add(step),
        };
        counts.push(count);
    }
    if count > end {
        return Err(format!("it goes on with {count}, and not with {end}"));
    }
    // Too many are told by the caller.
    Ok(())
}

/// The head of the table.
pub(super) fn head() -> String {
    cells([
        "clients",
        "ops/s",
        "p50",
        "p99",
        "p99.9",
        "primary/op",
        "client/op",
    ])
}

/// A row of the table, which can be printed before the next is known.
pub(super) fn row(report: &Report) -> String {
    let latency = report.summary.latency_us;
    let cpu = |share: Option<Share>| share.map_or_else(|| "-".into(), |cpu| short(cpu.us_per_op));
    let [p50, p99, p999] = [latency.p50, latency.p99, latency.p999].map(short);
    cells([
        &report.clients.to_string(),
        &thousands(report.summary.ops_per_sec.round() as u64),
        &p50,
        &p99,
        &p999,
        &cpu(report.cpu.primary),
        &cpu(Some(report.cpu.client)),
    ])
}

fn cells(cells: [&str; 7]) -> String {
    let [clients, cells @ ..] = cells;
    cells.iter().fold(format!("{clients:>7}"), |row, cell| {
        format!("{row}  {cell:>10}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<u32>, String> {
        text.parse().map(|Sweep(counts)| counts)
    }

    #[test]
    fn numbers_are_listed_or_go_on() {
        let cases: [(&str, &[u32]); 6] = [
            ("8", &[8]),
            ("1,4, 16", &[1, 4, 16]),
            ("1,2,4,...,32", &[1, 2, 4, 8, 16, 32]),
            ("1,2,4,…,8,100", &[1, 2, 4, 8, 100]),
            ("8,16,24,...,40", &[8, 16, 24, 32, 40]),
            ("1,2,3,...,5", &[1, 2, 3, 4, 5]),
        ];
        for (text, counts) in cases {
            assert_eq!(parse(text).as_deref(), Ok(counts), "{text}");
        }
    }

    #[test]
    fn what_is_no_sweep_is_told_with_the_cure() {
        let cases = [
            ("", "\"\" is no number"),
            ("0", "\"0\" is no number from 1 to 16384"),
            ("1,16385", "16385"),
            ("4,2", "2 does not rise"),
            ("4,4", "4 does not rise"),
            ("1,...,8", "three numbers"),
            ("1,2,...,8", "three numbers"),
            ("1,3,4,...,8", "three numbers"),
            ("1,2,4,...", "it ends with dots"),
            ("1,2,4,...,100", "it goes on with 128, and not with 100"),
            ("1,2,3,...,16000", "more than 64 runs"),
        ];
        for (text, expected) in cases {
            let error = parse(text).expect_err("it is wrong");
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
