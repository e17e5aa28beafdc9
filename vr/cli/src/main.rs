//! The program `viewring`: one file a subcommand.

mod bench;
mod config;
mod consistency;
mod demo;
mod duration;
mod entries;
mod exit;
mod kv;
mod log;
mod meter;
mod output;
mod replica;
mod settings;
mod sim;
mod specpaxos;
mod status;
mod usage;

use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};

use crate::exit::{Exit, Failure};

/// Viewstamped Replication on io_uring: a replicated state machine to try, run and measure.
#[derive(Debug, Parser)]
#[command(name = "viewring", version, after_help = format!("{EXAMPLES}\n\n{}", exit::table()))]
struct Program {
    #[command(subcommand)]
    command: Command,
    /// Log more, to stderr; twice for still more. The variable RUST_LOG overrides it.
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = LAST)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Config(config::Args),
    Replica(replica::Args),
    Kv(kv::Args),
    Bench(bench::Args),
    Status(status::Args),
    Sim(sim::Args),
}

/// Where the options of every command are told: behind its own.
const LAST: usize = 900;

const EXAMPLES: &str = "\
Examples:
  viewring demo                                   see a group survive its primary
  viewring config --replicas 3 > cluster.toml     describe a group,
  viewring replica --config cluster.toml --id 0   run each of its replicas (--id 1, --id 2),
  viewring kv --config cluster.toml put colour green
  viewring bench --config cluster.toml --clients 32
  viewring sim --seeds 1000                       a thousand groups where everything goes wrong";

fn main() -> ExitCode {
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => return usage::tell(&error),
    };
    run(program).unwrap_or_else(Failure::tell).into()
}

fn run(program: Program) -> Result<Exit, Failure> {
    let wont = match program.command {
        Command::Replica(_) => log::Wont::Deeds,
        Command::Sim(_) => log::Wont::Nothing,
        Command::Demo(_) | Command::Config(_) | Command::Kv(_) => log::Wont::Warnings,
        Command::Bench(_) | Command::Status(_) => log::Wont::Warnings,
    };
    let clock = if matches!(program.command, Command::Sim(_)) {
        log::Clock::Virtual
    } else {
        log::Clock::Wall
    };
    log::start(wont, clock, program.verbose)?;
    match program.command {
        Command::Demo(args) => demo::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Replica(args) => replica::run(&args),
        Command::Kv(args) => kv::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Sim(args) => sim::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Program::command().debug_assert();
    }
}
