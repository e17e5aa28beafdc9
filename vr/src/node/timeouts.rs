//! How long a replica waits for what.

use std::time::Duration;

/// How long a replica waits for what before it acts. All replicas of a group should agree.
///
/// A view change takes about [`silence`](Self::silence) to be noticed and a few round trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A primary that has nothing to prepare says so, this often.
    pub heartbeat: Duration,
    /// A primary sends uncommitted entries again when nothing was committed for so long. Shorter
    /// than `heartbeat`.
    pub prepare: Duration,
    /// A primary that does not hear a quorum for so long stops leading.
    pub abdicate: Duration,
    /// A backup that does not hear its primary for so long, and up to half as long again by
    /// chance, votes for another view. Several times `heartbeat`.
    pub silence: Duration,
    /// Messages of a view change are sent again, this often.
    pub view_change_resend: Duration,
    /// A view that has not started after so long is given up, for the next. Doubles with each
    /// failure, up to eight times, until a view has lasted.
    pub view_change: Duration,
    /// Upkeep, such as asking again for entries that have not come, is done this often.
    pub upkeep: Duration,
    /// A replica that is no member introduces itself, this often.
    pub announce: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            heartbeat: ms(50),
            prepare: ms(25),
            abdicate: ms(1_000),
            silence: ms(250),
            view_change_resend: ms(40),
            view_change: ms(250),
            upkeep: ms(25),
            announce: ms(50),
        }
    }
}

impl Timeouts {
    /// The first thing that is wrong with them, if any.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        if self.heartbeat.is_zero() || self.prepare.is_zero() || self.upkeep.is_zero() {
            return Some("a timeout of zero");
        }
        if self.prepare >= self.heartbeat {
            return Some("the prepare timeout must be shorter than the heartbeat");
        }
        if self.heartbeat * 3 > self.silence {
            return Some("the silence timeout must be at least three heartbeats");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_together() {
        assert_eq!(Timeouts::default().fault(), None);
    }

    #[test]
    fn a_silence_of_two_heartbeats_is_refused() {
        let heartbeat = Duration::from_millis(125);
        assert!(
            Timeouts {
                heartbeat,
                ..Timeouts::default()
            }
            .fault()
            .is_some()
        );
    }
}
