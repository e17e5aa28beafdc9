//! How the program ends: exit codes, and failures in one line.

use std::fmt::{Display, Write as _};
use std::future::Future;
use std::io::ErrorKind;
use std::process::ExitCode;

use viewring::{CallError, ConfigError, ViewFileError};
use viewring_runtime::{Config, Runtime, Uring};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    Negative,
    Usage,
    Unreachable,
    Setup,
    Broken,
}

impl Exit {
    /// Each with its code and what it means.
    const TABLE: [(Self, u8, &str); 6] = [
        (Self::Success, 0, "success"),
        (
            Self::Negative,
            1,
            "a negative answer: the key is missing, the value was not swapped",
        ),
        (
            Self::Usage,
            2,
            "the command line or the configuration is wrong",
        ),
        (
            Self::Unreachable,
            3,
            "the group does not answer: the outcome may be unknown",
        ),
        (
            Self::Setup,
            4,
            "an I/O error, a port that is taken, io_uring that is missing",
        ),
        (
            Self::Broken,
            5,
            "demo: data was lost, doubled or differs, or a client forgotten; sim: a seed failed",
        ),
    ];

    fn code(self) -> u8 {
        let row = Self::TABLE.iter().find(|(exit, ..)| *exit == self);
        row.expect("every exit is in the table").1
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// What `--help` says about exit codes.
pub(crate) fn table() -> String {
    let mut text = String::from("Exit codes:");
    for (_, code, meaning) in Exit::TABLE {
        write!(text, "\n  {code}  {meaning}").expect("a string takes everything");
    }
    text
}

/// Why a command ended before its end, in one line.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// Empty: nothing need be said.
    message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
        }
    }

    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn unreachable(message: impl Display) -> Self {
        Self::new(Exit::Unreachable, message)
    }

    pub(crate) fn setup(message: impl Display) -> Self {
        Self::new(Exit::Setup, message)
    }

    /// Whoever read our output has had enough: end, and say nothing.
    pub(crate) fn quiet() -> Self {
        Self::new(Exit::Success, "")
    }

    /// Says what is to be said, on stderr.
    pub(crate) fn tell(self) -> Exit {
        if !self.message.is_empty() {
            tell(&self.message);
        }
        self.exit
    }
}

/// One line on stderr. Whatever `message` has of lines become one.
pub(crate) fn tell(message: &str) {
    let mut lines = message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let mut line = lines.next().unwrap_or_default().to_owned();
    for more in lines {
        line.push_str(if line.ends_with([',', ':', ';']) {
            " "
        } else {
            "; "
        });
        line.push_str(more);
    }
    eprintln!("viewring: {line}");
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Bind(addr, error) if error.kind() == ErrorKind::AddrInUse => {
                Self::setup(format_args!(
                    "the address {addr} is taken: does the replica, or another program, run there?"
                ))
            }
            ConfigError::Bind(addr, error) if error.kind() == ErrorKind::AddrNotAvailable => {
                Self::setup(format_args!(
                    "no interface of this machine has the address of {addr}: is it of a replica \
                     elsewhere?"
                ))
            }
            ConfigError::ViewFile(ViewFileError::Io { path, error }) => {
                let (path, error) = (path.display().to_string(), error.to_string());
                // Errors of files name them, mostly.
                let reason = error.strip_prefix(&format!("{path}: ")).unwrap_or(&error);
                Self::setup(format_args!("cannot use {path}: {reason}"))
            }
            ConfigError::Bind(..) | ConfigError::ViewFile(_) => Self::setup(error),
            ConfigError::Group(_)
            | ConfigError::UnknownId { .. }
            | ConfigError::SameAddress(_)
            | ConfigError::Value(_) => Self::usage(error),
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::TooLarge | CallError::ResultTooLarge => Self::usage(error),
            CallError::Socket(_) => Self::setup(error),
            CallError::Unknown { .. }
            | CallError::Unsettled { .. }
            | CallError::NothingToSettle
            | CallError::NoAnswer
            | CallError::SessionLost
            | CallError::SessionEvicted
            | CallError::Exhausted => Self::unreachable(error),
        }
    }
}

/// Runs a command on a runtime of its own.
pub(crate) fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    block_on_with(Config::default(), command)
}

/// As [`block_on`], on a runtime that is told something.
pub(crate) fn block_on_with<T>(
    config: Config,
    command: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let uring = Uring::new().map_err(Failure::setup)?;
    Runtime::new(uring, config).block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_has_its_code_and_the_help_says_which() {
        let codes = Exit::TABLE.map(|(exit, ..)| exit.code());
        assert_eq!(codes, [0, 1, 2, 3, 4, 5]);
        assert_eq!(table().lines().count(), 1 + codes.len());
    }
}
