//! Durations as people write them: `10s`, `500ms`, `1.5m`, `2h`.

use std::time::Duration;

/// Units with their length in nanoseconds, the longest name first where one ends with another.
const UNITS: [(&str, f64); 7] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];
/// The same, for people.
const NAMES: &str = "ns, us, ms, s, m or h";
/// Nothing here waits longer than a day.
const LONGEST_NS: f64 = 24.0 * 3600e9;

/// A duration: a number and a unit.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let unit = UNITS
        .iter()
        .find_map(|&(name, ns)| Some((text.strip_suffix(name)?, ns)));
    let Some((number, unit_ns)) = unit else {
        return Err(format!("it needs a unit ({NAMES}), as in 10s, 500ms or 2m"));
    };
    let plain = number.starts_with(|c: char| c.is_ascii_digit())
        && number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let ns = number
        .parse::<f64>()
        .ok()
        .filter(|_| plain)
        .map(|number| number * unit_ns);
    match ns {
        Some(ns) if ns <= LONGEST_NS => Ok(Duration::from_nanos(ns.round() as u64)),
        Some(_) => Err("longer than a day".into()),
        None => Err(format!(
            "not a number and a unit ({NAMES}), as in 10s, 500ms or 2m"
        )),
    }
}

/// As [`parse`], but not zero.
pub(crate) fn parse_positive(text: &str) -> Result<Duration, String> {
    let duration = parse(text)?;
    if duration.is_zero() {
        Err("it must be longer than zero".into())
    } else {
        Ok(duration)
    }
}

/// A latency in three digits and the unit that fits.
pub(crate) fn short(us: f64) -> String {
    let (number, unit) = match us {
        us if us < 1e3 => (us, "µs"),
        us if us < 1e6 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    let decimals = match number {
        number if number < 9.995 => 2,
        number if number < 99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_unit_is_a_duration() {
        let cases = [
            ("10s", 10_000_000),
            ("500ms", 500_000),
            ("1.5s", 1_500_000),
            ("2m", 120_000_000),
            ("1.5h", 5_400_000_000),
            ("0s", 0),
            ("7us", 7),
            ("7µs", 7),
        ];
        for (text, us) in cases {
            assert_eq!(parse(text), Ok(Duration::from_micros(us)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let wrong = [
            "", "10", "s", "25h", "-1s", "+1s", "1e3s", "infs", "nans", "1 s", "1..2s", "1441m",
        ];
        for text in wrong {
            assert!(parse(text).is_err(), "{text}");
        }
        for (name, _) in UNITS.iter().filter(|(name, _)| name.is_ascii()) {
            assert!(NAMES.split([',', ' ']).any(|word| word == *name), "{name}");
        }
        assert!(parse_positive("0ms").is_err());
    }

    #[test]
    fn a_latency_has_three_digits() {
        let cases = [
            (7.25, "7.25 µs"),
            (312.4, "312 µs"),
            (1_204.0, "1.20 ms"),
            (2.5e6, "2.50 s"),
        ];
        for (us, text) in cases {
            assert_eq!(short(us), text);
        }
        assert_eq!(short(9.999), "10.0 µs");
    }
}
