//! How long a replica waits for what.

use std::time::Duration;

/// How long a replica waits for what before it acts. All replicas of a group should agree.
///
/// A view change takes about [`silence`](Self::silence) to be noticed and a few round trips. Where
/// round trips are long, a replica measures them and waits longer than is said here for what takes
/// a round trip, but for no more than four times as long: with the defaults, a group whose round
/// trips take more than two seconds may change its view for ever. Only for what it fetches from
/// another replica it waits for two round trips to that one, up to four seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A primary that has nothing to prepare says so, this often.
    pub heartbeat: Duration,
    /// A primary sends uncommitted entries again when nothing was committed for so long.
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

/// A measured round trip makes no timeout longer than so many times what was configured.
const SCALE_MAX: u32 = 4;

impl Timeouts {
    /// These timeouts for a group in which a quorum answers within `round_trip`: what waits for an
    /// answer is given two of them, what waits for a view change (three trips) or must not
    /// mistake one slow answer for silence, four.
    pub(crate) fn scaled(&self, round_trip: Duration) -> Self {
        let at_least = |configured: Duration, trips: u32| {
            let needed = round_trip.saturating_mul(trips);
            configured.max(needed.min(configured.saturating_mul(SCALE_MAX)))
        };
        Self {
            prepare: at_least(self.prepare, 2),
            abdicate: at_least(self.abdicate, 4),
            silence: at_least(self.silence, 2),
            view_change_resend: at_least(self.view_change_resend, 2),
            view_change: at_least(self.view_change, 4),
            upkeep: at_least(self.upkeep, 2),
            ..*self
        }
    }

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
        assert!(refused(|t, to| t.abdicate = to, ms(200)));
        assert!(refused(|t, to| t.view_change_resend = to, ms(250)));
        // A loop over a timeout of zero would never let anything else run.
        assert!(refused(|t, to| t.view_change_resend = to, ms(0)));
        assert!(refused(|t, to| t.announce = to, ms(0)));
    }

    #[test]
    fn a_short_round_trip_changes_nothing() {
        let timeouts = Timeouts::default();
        assert_eq!(timeouts.scaled(Duration::ZERO), timeouts);
        assert_eq!(timeouts.scaled(Duration::from_millis(12)), timeouts);
    }

    #[test]
    fn a_long_round_trip_stretches_what_waits_for_answers() {
        let ms = Duration::from_millis;
        let far = Timeouts::default().scaled(ms(200));
        assert_eq!((far.heartbeat, far.announce), (ms(50), ms(50)));
        assert_eq!((far.silence, far.view_change), (ms(400), ms(800)));
        assert_eq!((far.prepare, far.view_change_resend), (ms(100), ms(160)));
        assert_eq!(far.fault(), None, "they fit together still");
    }

    #[test]
    fn no_measurement_stretches_them_for_ever() {
        let timeouts = Timeouts::default();
        let most = timeouts.scaled(Duration::MAX);
        assert_eq!(most.silence, timeouts.silence * SCALE_MAX);
        assert_eq!(most.fault(), None);
    }
}
