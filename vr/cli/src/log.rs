//! What the layers below say of themselves, on stderr.

use std::env::{self, VarError};
use std::io;

use tracing_subscriber::EnvFilter;

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

/// Starts logging; more with `-v`, `-vv`. RUST_LOG overrides it all.
pub(crate) fn start(wont: Wont, verbose: u8) -> Result<(), Failure> {
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
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(verbose > 0)
        .init();
    Ok(())
}
