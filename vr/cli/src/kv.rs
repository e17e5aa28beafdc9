//! `viewring kv`: use the key-value store.

use std::ffi::OsString;
use std::io::{self, BufRead, Read};
use std::num::NonZeroU16;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use clap::builder::{OsStringValueParser, TypedValueParser};
use viewring::kv::{KEY_BYTES_MAX, KvError, KvReader, KvSession, VALUE_BYTES_MAX};
use viewring::{CallError, Client};
use viewring_runtime::time::{Instant, timeout_at};

use crate::consistency::Consistency;
use crate::duration::parse_positive;
use crate::entries;
use crate::exit::{self, Exit, Failure};
use crate::output::{self, thousands};
use crate::settings::Settings;
use crate::usage::which_group;

/// Use the key-value store of a group.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  viewring kv --config cluster.toml put colour green
  viewring kv --config cluster.toml put page - < page.html
  viewring kv --config cluster.toml get colour
  viewring kv --config cluster.toml get colour --consistency local
  viewring kv --config cluster.toml get page --raw > page.html
  viewring kv --config cluster.toml cas colour --expect green blue
  viewring kv --config cluster.toml scan user/ | head
  viewring kv --config cluster.toml scan --json > entries.jsonl
  viewring kv --config new.toml load < entries.jsonl

Keys and values are bytes, and printed as they are, but by scan --json.
A key has at most 1 KiB, a value at most 15 KiB.

Exit code 1: get found no such key, cas did not swap. Exit code 3: no answer in time; what put,
delete, cas or the last put of load did is unknown, unless it says that nothing was executed.")]
pub(crate) struct Args {
    /// Describes the group.
    // An empty variable is as good as none, and must not hide what is said before the operation.
    #[arg(long, value_name = "FILE", env = "VIEWRING_CONFIG", global = true,
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    config: Option<PathBuf>,
    /// How long to wait for the group: scan for each page, load for each entry.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_positive,
          global = true)]
    timeout: Duration,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the value of a key, bare, and a newline.
    Get {
        /// Of which key.
        key: OsString,
        /// Print the value and nothing else, no newline.
        #[arg(long)]
        raw: bool,
        /// How fresh the answer must be.
        #[arg(long, value_enum, default_value = "read-index")]
        consistency: Consistency,
    },
    /// Make a key hold a value.
    ///
    /// A key has at most 1 KiB, a value at most 15 KiB.
    Put {
        /// Which key; if there is none, it is made.
        key: OsString,
        /// The value; `-` reads it from stdin, to the last byte.
        #[arg(allow_hyphen_values = true)]
        value: OsString,
    },
    /// Remove a key. It is no error if it is missing.
    Delete {
        /// Which key.
        key: OsString,
    },
    /// Compare and swap: make a key hold a value if it holds what is expected.
    Cas {
        /// Which key.
        key: OsString,
        /// What the key must hold. Without it the key must be missing.
        #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
        expect: Option<OsString>,
        /// The new value; `-` reads it from stdin, to the last byte.
        #[arg(allow_hyphen_values = true)]
        new: OsString,
    },
    /// Print `key<TAB>value` lines, in the order of the keys.
    ///
    /// It reads page after page: what others write meanwhile is in some and not in others.
    Scan {
        /// Only keys that begin so.
        #[arg(default_value = "")]
        prefix: OsString,
        /// Print a JSON object a line, from which load has all bytes back: {"key":"k","value":"v"}.
        /// What is not UTF-8 is an array of numbers, as `key_bytes` or `value_bytes`.
        #[arg(long)]
        json: bool,
        /// At most so many.
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// How fresh each page must be.
        #[arg(long, value_enum, default_value = "read-index")]
        consistency: Consistency,
    },
    /// Put what `scan --json` has printed, from stdin, an entry a line.
    ///
    /// Keys that are not in it stay as they are. If it ends early, the entries before are stored,
    /// and all may be loaded again.
    Load,
}

pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let said = args
        .config
        .as_ref()
        .filter(|path| !path.as_os_str().is_empty());
    let config = said.ok_or_else(|| Failure::usage(which_group(true)))?;
    let settings = Settings::load(config)?;
    let request = Request::of(&args.action)?;
    exit::block_on(ask(&settings, &request, args.timeout))
}

/// What is asked of the store, within its limits.
enum Request {
    Read(Consistency, Question),
    Write(Change),
    Load,
}

/// What only looks: it needs no session, and is no entry in the log.
enum Question {
    Get {
        key: Vec<u8>,
        raw: bool,
    },
    Scan {
        prefix: Vec<u8>,
        limit: u64,
        json: bool,
    },
}

enum Change {
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        key: Vec<u8>,
    },
    Cas {
        key: Vec<u8>,
        expected: Option<Vec<u8>>,
        new: Vec<u8>,
    },
}

impl Request {
    fn of(action: &Action) -> Result<Self, Failure> {
        Ok(match action {
            Action::Get {
                key: k,
                raw,
                consistency,
            } => {
                let (key, raw) = (key(k)?, *raw);
                Self::Read(*consistency, Question::Get { key, raw })
            }
            Action::Scan {
                prefix,
                json,
                limit,
                consistency,
            } => {
                let question = Question::Scan {
                    prefix: key(prefix)?,
                    limit: limit.unwrap_or(u64::MAX),
                    json: *json,
                };
                Self::Read(*consistency, question)
            }
            Action::Load => Self::Load,
            Action::Put { key: k, value } => Self::Write(Change::Put {
                key: key(k)?,
                value: read(value)?,
            }),
            Action::Delete { key: k } => Self::Write(Change::Delete { key: key(k)? }),
            Action::Cas {
                key: k,
                expect,
                new,
            } => {
                let expected = expect
                    .as_ref()
                    .map(|expected| value(expected.clone().into_vec()));
                Self::Write(Change::Cas {
                    key: key(k)?,
                    expected: expected.transpose()?,
                    new: read(new)?,
                })
            }
        })
    }
}

fn key(text: &OsString) -> Result<Vec<u8>, Failure> {
    let key = text.clone().into_vec();
    if key.len() > KEY_BYTES_MAX {
        return Err(Failure::usage(KvError::KeyTooLong(key.len())));
    }
    Ok(key)
}

fn value(value: Vec<u8>) -> Result<Vec<u8>, Failure> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(Failure::usage(KvError::ValueTooLong(value.len())));
    }
    Ok(value)
}

/// The value that the argument is, or stdin's if it is `-`.
fn read(argument: &OsString) -> Result<Vec<u8>, Failure> {
    if argument != "-" {
        return value(argument.clone().into_vec());
    }
    let mut bytes = Vec::new();
    // One byte more than is allowed tells that it is too long.
    let result = io::stdin()
        .lock()
        .take(VALUE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes);
    result.map_err(|error| Failure::setup(format_args!("cannot read the value: {error}")))?;
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(Failure::usage(format_args!(
            "the value from stdin is too long: at most {VALUE_BYTES_MAX} bytes are allowed"
        )));
    }
    Ok(bytes)
}

async fn ask(settings: &Settings, request: &Request, patience: Duration) -> Result<Exit, Failure> {
    let give_up_at = Instant::now() + patience;
    let silent = |consequence: &str| {
        let addresses = settings.addresses();
        let line = format!("no answer within {patience:?} from the group at {addresses}");
        Failure::unreachable(line + consequence + " (`viewring status` shows who is there)")
    };
    let client = Client::new(settings.client(patience))?;
    let session = async || match timeout_at(give_up_at, client.session()).await {
        Ok(Err(CallError::NoAnswer)) | Err(_) => Err(silent(": nothing was executed")),
        Ok(session) => Ok(KvSession::new(session?)),
    };
    let (finished, consequence) = match request {
        Request::Read(consistency, question) => {
            let mut reader = KvReader::new(client.clone());
            reader.consistency = (*consistency).into();
            (look(&reader, question).await, String::new())
        }
        Request::Write(change) => {
            let mut kv = session().await?;
            let finished = timeout_at(give_up_at, perform(&mut kv, change)).await;
            let consequence = ": it may have been executed, or may be yet";
            (finished.unwrap_or(Err(SILENCE)), consequence.into())
        }
        Request::Load => {
            let (mut kv, mut stored) = (session().await?, 0);
            let finished = load(&mut kv, &mut stored).await;
            let stored = thousands(stored);
            let consequence = format!(": of the entries {stored} are stored, the next perhaps");
            (finished, consequence)
        }
    };
    finished.map_err(|stopped| match stopped {
        Stopped::Kv(KvError::Call(CallError::Unknown { .. } | CallError::NoAnswer)) => {
            silent(&consequence)
        }
        Stopped::Kv(KvError::Call(error)) => error.into(),
        Stopped::Kv(error) => Failure::usage(error),
        Stopped::Told(failure) => failure,
    })
}

/// Why a request was not finished.
enum Stopped {
    Kv(KvError),
    Told(Failure),
}

/// The group has not answered in time.
const SILENCE: Stopped = Stopped::Kv(KvError::Call(CallError::NoAnswer));

impl From<KvError> for Stopped {
    fn from(error: KvError) -> Self {
        Self::Kv(error)
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Told(failure)
    }
}

async fn look(kv: &KvReader, question: &Question) -> Result<Exit, Stopped> {
    match question {
        Question::Get { key, raw } => {
            let Some(mut value) = kv.get(key).await? else {
                return Err(Failure::new(Exit::Negative, "there is no such key").into());
            };
            if !raw {
                value.push(b'\n');
            }
            output::write(&value)?;
        }
        Question::Scan {
            prefix,
            limit,
            json,
        } => scan(kv, prefix, *limit, *json).await?,
    }
    Ok(Exit::Success)
}

async fn perform(kv: &mut KvSession, change: &Change) -> Result<Exit, Stopped> {
    match change {
        Change::Put { key, value } => kv.put(key, value).await?,
        Change::Delete { key } => {
            let _existed = kv.delete(key).await?;
        }
        Change::Cas { key, expected, new } => {
            if let Err(current) = kv.compare_and_swap(key, expected.as_deref(), new).await? {
                let holds = if current.is_some() {
                    "holds another value"
                } else {
                    "is missing"
                };
                let line = format!("not swapped: the key {holds}");
                return Err(Failure::new(Exit::Negative, line).into());
            }
        }
    }
    Ok(Exit::Success)
}

/// Puts the entries on stdin, one after the other, and counts those that are stored.
async fn load(kv: &mut KvSession, stored: &mut u64) -> Result<Exit, Stopped> {
    for (index, line) in io::stdin().lock().split(b'\n').enumerate() {
        let line =
            line.map_err(|error| Failure::setup(format_args!("cannot read the entries: {error}")))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let (key, value) = entries::read(&line).map_err(|fault| {
            let (number, stored) = (index + 1, thousands(*stored));
            Failure::usage(format_args!(
                "line {number} of stdin is no entry: {fault}; the {stored} before it are stored"
            ))
        })?;
        kv.put(&key, &value).await?;
        *stored += 1;
    }
    output::line(format_args!("{} stored", thousands(*stored)))?;
    Ok(Exit::Success)
}

async fn scan(kv: &KvReader, prefix: &[u8], limit: u64, json: bool) -> Result<(), Stopped> {
    let mut left = limit;
    let mut after: Option<Vec<u8>> = None;
    // None is left of the limit: enough.
    while let Some(limit) = NonZeroU16::new(u16::try_from(left).unwrap_or(u16::MAX)) {
        let page = kv.scan(prefix, after.as_deref(), limit).await?;
        let mut lines = Vec::new();
        for (key, value) in &page.entries {
            if json {
                entries::write(key, value, &mut lines)?;
                continue;
            }
            for part in [key, &b"\t"[..], value, b"\n"] {
                lines.extend_from_slice(part);
            }
        }
        output::write(&lines)?;
        left -= page.entries.len() as u64;
        after = page.entries.into_iter().last().map(|(key, _)| key);
        if !page.more || after.is_none() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use crate::Program;

    use super::*;

    #[test]
    fn the_help_tells_the_limits() {
        let [key, value] = [KEY_BYTES_MAX, VALUE_BYTES_MAX].map(|bytes| bytes / 1024);
        let limits = format!("A key has at most {key} KiB, a value at most {value} KiB.");
        let mut program = Program::command();
        let kv = program.find_subcommand_mut("kv").expect("there is one");
        assert!(kv.render_long_help().to_string().contains(&limits));
        let put = kv.find_subcommand_mut("put").expect("there is one");
        assert!(put.render_long_help().to_string().contains(&limits));
    }
}
