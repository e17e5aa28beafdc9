//! A wrong command line, told in one line.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};

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
    // Of a word that is no text clap has complained.
    let words = std::env::args_os().skip(1);
    let words = words.filter_map(|word| word.into_string().ok());
    exit::tell(&what_is_wrong(error, words));
    Exit::Usage.into()
}

/// What is wrong with the command line of these words, in one line.
fn what_is_wrong(error: &clap::Error, words: impl Iterator<Item = String>) -> String {
    let program = Program::command();
    let (command, name) = named(&program, words);
    match missing(error, command) {
        Some(cure) => format!("{cure} (see `{name} --help`)"),
        None => in_one_line(&error.to_string(), &name),
    }
}

/// Which command of the program the words of a command line name, down to the last, and its whole
/// name: of a wrong value the report does not say it.
fn named(program: &Command, words: impl Iterator<Item = String>) -> (&Command, String) {
    let mut command = program;
    let mut name = String::from(program.get_name());
    for word in words {
        if let Some(next) = command.find_subcommand(&word) {
            command = next;
            name.push(' ');
            name.push_str(next.get_name());
        }
    }
    (command, name)
}

/// What to add, if that is all that is missing: which group is meant, or which of its replicas.
fn missing(error: &clap::Error, command: &Command) -> Option<String> {
    let is_empty = error.get(ContextKind::InvalidValue) == Some(&ContextValue::String("".into()));
    let args = match (error.kind(), error.get(ContextKind::InvalidArg)?) {
        (ErrorKind::MissingRequiredArgument, ContextValue::Strings(args)) => args.clone(),
        (ErrorKind::InvalidValue, ContextValue::String(arg)) if is_empty => vec![arg.clone()],
        _ => return None,
    };
    let mut config = command
        .get_arguments()
        .filter(|arg| arg.get_id() == "config");
    let takes_variable = config.any(|arg| arg.get_env().is_some());
    let cure = |arg: &String| match arg.as_str() {
        "--config <FILE>" => Some(which_group(takes_variable)),
        "--id <N>" => Some("which replica: add --id <N>, or --all for all of them in one process"),
        _ => None,
    };
    let cures: Option<Vec<&str>> = args.iter().map(cure).collect();
    Some(cures?.join("; "))
}

/// What to add if no file tells which group is meant.
pub(crate) fn which_group(takes_variable: bool) -> &'static str {
    if takes_variable {
        "which group: add --config <FILE>, or set VIEWRING_CONFIG"
    } else {
        "which group: add --config <FILE>"
    }
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
        what_is_wrong(&wrong, words)
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
            "which group: add --config <FILE>; which replica: add --id <N>, or --all for all of \
             them in one process (see `viewring replica --help`)"
        );
        for command in ["status", "bench"] {
            let cure = "which group: add --config <FILE>, or set VIEWRING_CONFIG";
            let expected = format!("{cure} (see `viewring {command} --help`)");
            assert_eq!(line(&[command]), expected);
            assert_eq!(line(&[command, "--config", ""]), expected);
        }
        let wrong = line(&["kv", "get", "k", "--consistency", "foo"]);
        assert!(
            wrong.ends_with(" (see `viewring kv get --help`)"),
            "{wrong}"
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
