//! A wrong command line, told in one line.

use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::Program;
use crate::exit::{self, Exit};

/// Prints what was asked for (`--help`, `--version`) or what is wrong.
pub(crate) fn tell(error: &clap::Error) -> ExitCode {
    let asked = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    let bare = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if asked || bare {
        // Nobody is left to be told that it could not be printed.
        let _closed_pipe = error.print().is_err();
        return if asked { Exit::Success } else { Exit::Usage }.into();
    }
    let words = std::env::args().skip(1);
    exit::tell(&in_one_line(&error.to_string(), &named(words)));
    Exit::Usage.into()
}

/// The program, and which of its commands the words of a command line name: of a wrong value the
/// report does not say it.
fn named(words: impl Iterator<Item = String>) -> String {
    let program = Program::command();
    let mut words = words.filter(|word| program.find_subcommand(word).is_some());
    words
        .next()
        .map_or("viewring".into(), |word| format!("viewring {word}"))
}

/// The message and the tips of clap's report, and where to read more: `command`, if the report does
/// not say it.
fn in_one_line(report: &str, command: &str) -> String {
    let report = report.strip_prefix("error: ").unwrap_or(report);
    let (message, rest) = report.split_once("\n\n").unwrap_or((report, ""));
    let mut line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    for tip in rest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tip: "))
    {
        line.push_str("; ");
        line.push_str(tip);
    }
    let usage = rest.lines().find_map(|line| line.strip_prefix("Usage: "));
    let mut command: Vec<_> = usage.unwrap_or(command).split(' ').collect();
    command.truncate(
        command
            .iter()
            .take_while(|word| word.starts_with(char::is_alphabetic))
            .count(),
    );
    format!("{line} (see `{} --help`)", command.join(" "))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn line(args: &[&str]) -> String {
        let all = std::iter::once("viewring").chain(args.iter().copied());
        let wrong = Program::try_parse_from(all).expect_err("a wrong command line");
        let words = args.iter().map(|word| String::from(*word));
        in_one_line(&wrong.to_string(), &named(words))
    }

    #[test]
    fn what_is_wrong_is_told_in_one_line() {
        assert_eq!(
            line(&["demo", "--replica", "3"]),
            "unexpected argument '--replica' found; a similar argument exists: '--replicas' \
             (see `viewring demo --help`)"
        );
        assert_eq!(
            line(&["replica"]),
            "the following required arguments were not provided: --config <FILE> --id <N> \
             (see `viewring replica --help`)"
        );
        let wrong = line(&["demo", "--duration", "10"]);
        assert!(
            wrong.starts_with("invalid value '10' for '--duration <TIME>': "),
            "{wrong}"
        );
        assert!(wrong.ends_with(" (see `viewring demo --help`)"), "{wrong}");
        assert!(!wrong.contains('\n'), "{wrong}");
    }
}
