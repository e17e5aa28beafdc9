//! What goes to stdout. A reader that has had enough is no error: `viewring … | head`.

use std::io::{self, Write};

use serde::Serialize;

use crate::exit::Failure;

/// Writes all of `bytes`, now.
///
/// # Errors
/// [`Failure::quiet`] when nobody reads any more.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(failure)
}

/// Writes a line.
///
/// # Errors
/// As [`write()`].
pub(crate) fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    write(format!("{text}\n").as_bytes())
}

/// Writes `value` as one line of JSON.
///
/// # Errors
/// As [`write()`].
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_vec(value).map_err(Failure::setup)?;
    text.push(b'\n');
    write(&text)
}

fn failure(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::quiet();
    }
    Failure::setup(format_args!("cannot write to stdout: {error}"))
}

/// Where the lines go that tell how things are while they go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Live {
    Stdout,
    Stderr,
}

impl Live {
    /// # Errors
    /// As [`write()`].
    pub(crate) fn line(self, text: impl std::fmt::Display) -> Result<(), Failure> {
        match self {
            Self::Stdout => line(text),
            Self::Stderr => {
                // What cannot be told to stderr cannot be told at all.
                let _closed = writeln!(io::stderr(), "{text}").is_err();
                Ok(())
            }
        }
    }
}

/// `number` with a comma between every three digits.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 replica`, `3 replicas`.
pub(crate) fn counted(count: u32, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Columns as wide as their widest cell. The first row is the head.
pub(crate) fn align<R: AsRef<[String]>>(rows: &[R]) -> String {
    let cells = || rows.iter().map(AsRef::as_ref);
    let width = |column: usize| cells().map(|row| row[column].chars().count()).max();
    let columns = cells().map(<[String]>::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in cells() {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(
            [0, 999, 1_000, 41_203, 1_234_567].map(thousands),
            ["0", "999", "1,000", "41,203", "1,234,567"]
        );
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_trail() {
        let rows = [["id", "name"], ["10", "a"], ["2", ""]].map(|row| row.map(String::from));
        assert_eq!(align(&rows), "id  name\n10  a\n2\n");
    }
}
