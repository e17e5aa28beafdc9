//! Entries of the key-value store as lines of JSON, from which any bytes come back: what
//! `viewring kv scan --json` prints, and `viewring kv load` reads.

use serde::{Deserialize, Serialize};
use viewring::kv::{KEY_BYTES_MAX, KvError, VALUE_BYTES_MAX};

use crate::exit::Failure;

/// An entry: a key and a value, each as a string, or as bytes if it is not UTF-8.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_bytes: Option<Vec<u8>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_bytes: Option<Vec<u8>>,
}

/// Appends the line of an entry.
pub(crate) fn write(key: &[u8], value: &[u8], lines: &mut Vec<u8>) -> Result<(), Failure> {
    let (key, key_bytes) = text_or_bytes(key);
    let (value, value_bytes) = text_or_bytes(value);
    let line = Line {
        key,
        key_bytes,
        value,
        value_bytes,
    };
    serde_json::to_writer(&mut *lines, &line).map_err(Failure::setup)?;
    lines.push(b'\n');
    Ok(())
}

fn text_or_bytes(bytes: &[u8]) -> (Option<String>, Option<Vec<u8>>) {
    match str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(bytes.to_vec())),
    }
}

/// The key and the value of a line, within their limits.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        // It is one line, which the caller counts.
        error
            .to_string()
            .replace(" at line 1 column ", " at column ")
    })?;
    let key = bytes_of("key", line.key, line.key_bytes)?;
    let value = bytes_of("value", line.value, line.value_bytes)?;
    if key.len() > KEY_BYTES_MAX {
        return Err(KvError::KeyTooLong(key.len()).to_string());
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(KvError::ValueTooLong(value.len()).to_string());
    }
    Ok((key, value))
}

fn bytes_of(name: &str, text: Option<String>, bytes: Option<Vec<u8>>) -> Result<Vec<u8>, String> {
    match (text, bytes) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(bytes)) => Ok(bytes),
        (Some(_), Some(_)) => Err(format!("both `{name}` and `{name}_bytes`")),
        (None, None) => Err(format!("neither `{name}` nor `{name}_bytes`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &[u8], value: &[u8]) -> String {
        let mut lines = Vec::new();
        write(key, value, &mut lines).expect("it can be written");
        String::from_utf8(lines).expect("JSON is UTF-8")
    }

    #[test]
    fn any_bytes_come_back_from_one_line() {
        let all: Vec<u8> = (0..=255).collect();
        let parts: [&[u8]; 6] = [
            b"",
            b"a",
            "\u{fffd}é".as_bytes(),
            b"a\tb\nc\0\"\\",
            b"\xff",
            &all,
        ];
        for key in parts {
            for value in parts {
                let line = line(key, value);
                assert_eq!(line.matches('\n').count(), 1, "{line}");
                assert_eq!(read(line.as_bytes()), Ok((key.to_vec(), value.to_vec())));
            }
        }
        assert_eq!(line(b"k", b"\t"), "{\"key\":\"k\",\"value\":\"\\t\"}\n");
        assert_eq!(line(b"\xff", b""), "{\"key_bytes\":[255],\"value\":\"\"}\n");
    }

    #[test]
    fn what_is_no_entry_is_told() {
        let long = format!(
            "{{\"key\":\"{}\",\"value\":\"\"}}",
            "k".repeat(KEY_BYTES_MAX + 1)
        );
        let cases = [
            ("key\tvalue", "at column 1"),
            (r#"{"key":"k"}"#, "neither `value` nor `value_bytes`"),
            (
                r#"{"key":"k","key_bytes":[1],"value":"v"}"#,
                "both `key` and `key_bytes`",
            ),
            (r#"{"key_bytes":[256],"value":"v"}"#, "256"),
            (r#"{"key":"k","value":"v","ttl":1}"#, "`ttl`"),
            (r#"{"key":"k","value":"v"} {}"#, "trailing"),
            (&long, "1025"),
        ];
        for (line, expected) in cases {
            let error = read(line.as_bytes()).expect_err("it is wrong");
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
