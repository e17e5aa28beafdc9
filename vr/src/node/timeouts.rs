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
    /// A primary that does not hear a quorum for so long stops leading. Not shorter than
    /// `silence`.
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
        let all = [
            self.heartbeat,
            self.prepare,
            self.abdicate,
            self.silence,
            self.view_change_resend,
            self.view_change,
            self.upkeep,
            self.announce,
        ];
        if all.iter().any(Duration::is_zero) {
            return Some("a timeout of zero");
        }
        if self.prepare >= self.heartbeat {
            return Some("the prepare timeout must be shorter than the heartbeat");
        }
        if self.heartbeat * 3 > self.silence {
            return Some("the silence timeout must be at least three heartbeats");
        }
        if self.silence > self.abdicate {
            // Else one slow answer to one heartbeat would end a view.
            return Some("the abdicate timeout must not be shorter than the silence");
        }
        if self.view_change_resend >= self.view_change {
            return Some("the view change timeout must be longer than that of its messages");
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
    fn what_does_not_fit_together_is_refused() {
        let ms = Duration::from_millis;
        let refused = |change: fn(&mut Timeouts, Duration), to| {
            let mut timeouts = Timeouts::default();
            change(&mut timeouts, to);
            timeouts.fault().is_some()
        };
        assert!(refused(|t, to| t.heartbeat = to, ms(125)));
        assert!(refused(|t, to| t.prepare = to, ms(50)));
        assert!(refused(|t, to| t.abdicate = to, ms(200)));
        assert!(refused(|t, to| t.view_change_resend = to, ms(250)));
        // A loop over a timeout of zero would never let anything else run.
        assert!(refused(|t, to| t.view_change_resend = to, ms(0)));
        assert!(refused(|t, to| t.announce = to, ms(0)));
    }
}
