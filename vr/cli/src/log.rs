//! What the layers below say of themselves, on stderr.

use std::env::{self, VarError};
use std::fmt;
use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use viewring_runtime::time::Instant;

use crate::exit::Failure;

/// How much is logged without being asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wont {
    /// Nothing: where thousands of replicas get into trouble, it is no news.
    Nothing,
    /// Warnings only.
    Warnings,
    /// What a replica does.
    Deeds,
}

/// What time a line bears.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// That of the day.
    Wall,
    /// That of the simulated node which says it: of a trace, but for its clock's drift.
    Virtual,
}

/// Seconds of virtual time; nothing for what no world says.
struct VirtualTime;

impl FormatTime for VirtualTime {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        let Some(now) = Instant::try_now() else {
            return Ok(());
        };
        let nanos = now.as_nanos();
        write!(
            out,
            "{:>6}.{:09}",
            nanos / 1_000_000_000,
            nanos % 1_000_000_000
        )
    }
}

/// Starts logging; more with `-v`, `-vv`. RUST_LOG overrides it all.
pub(crate) fn start(wont: Wont, clock: Clock, verbose: u8) -> Result<(), Failure> {
    let levels = ["off", "warn", "info", "debug", "trace"];
    let level = levels[(wont as usize + usize::from(verbose)).min(levels.len() - 1)];
    let filter = match env::var(EnvFilter::DEFAULT_ENV) {
        Ok(directives) if !directives.is_empty() => EnvFilter::try_new(&directives)
            .map_err(|error| Failure::usage(format_args!("the variable RUST_LOG: {error}")))?,
        Ok(_) | Err(VarError::NotPresent) => EnvFilter::new(level),
        Err(error @ VarError::NotUnicode(_)) => {
            return Err(Failure::usage(format_args!(
                "the variable RUST_LOG: {error}"
            )));
        }
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(verbose > 0);
    match clock {
        Clock::Wall => log.init(),
        Clock::Virtual => log.with_timer(VirtualTime).init(),
    }
    Ok(())
}
