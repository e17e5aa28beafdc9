//! Whose turn it is to be stopped, and who has come back.
//!
//! Only if all replicas are members is one of them stopped. So never more than one has lost its
//! memory, and the others, of which there are two at least, can give it back: f+1 of 2f+1. A
//! replica that takes longer than a period to come back puts the next one off.
//!
//! The first is the primary, then each in turn, by falling ids. A view's primary is followed by the
//! next higher id, so this way backups are stopped as well as primaries; by rising ids, whoever has
//! just taken over would be next, always.

use std::time::Duration;

use serde::Serialize;
use viewring_runtime::time::Instant;

/// Replicas are stopped in turn, and come back.
pub(super) struct Turns {
    replicas: u8,
    last: Option<u8>,
    down: Option<Down>,
}

/// A replica that was stopped and is not back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Down {
    pub(super) id: u8,
    since: Instant,
}

/// How many were stopped, and how many are back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Crashes {
    pub(super) crashes: u64,
    pub(super) recoveries: u64,
    /// From when it was stopped until it was a member again.
    pub(super) longest_recovery_ms: Option<u64>,
}

/// A group needs so long to notice that its primary is gone, to begin another view, and to have
/// somebody back.
pub(super) const SHORTEST: Duration = Duration::from_millis(500);

impl Turns {
    pub(super) fn new(replicas: u8) -> Self {
        Self {
            replicas,
            last: None,
            down: None,
        }
    }

    /// Who is to be stopped next, if this is the primary.
    pub(super) fn next(&self, primary: u8) -> u8 {
        let before = |last: u8| last.checked_sub(1).unwrap_or(self.replicas - 1);
        self.last.map_or(primary, before)
    }

    /// The replica that was stopped and is not back.
    pub(super) fn down(&self) -> Option<Down> {
        self.down
    }

    /// A replica is stopped now.
    pub(super) fn stopped(&mut self, id: u8, now: Instant, crashes: &mut Crashes) {
        assert_eq!(self.down, None, "one at a time");
        self.last = Some(id);
        self.down = Some(Down { id, since: now });
        crashes.crashes += 1;
    }

    /// A replica is a member. How long that took, if it had been stopped.
    pub(super) fn joined(
        &mut self,
        id: u8,
        now: Instant,
        crashes: &mut Crashes,
    ) -> Option<Duration> {
        let down = self.down.take_if(|down| down.id == id)?;
        let took = now - down.since;
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        crashes.recoveries += 1;
        crashes.longest_recovery_ms = crashes.longest_recovery_ms.max(Some(ms));
        Some(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn_from_the_primary_down() {
        viewring_runtime::block_on(async {
            let (mut turns, mut crashes) = (Turns::new(3), Crashes::default());
            let began = Instant::now();
            let mut order = Vec::new();
            for took in [10, 30, 20, 5] {
                let id = turns.next(1);
                order.push(id);
                turns.stopped(id, began, &mut crashes);
                let now = began + Duration::from_millis(took);
                assert_eq!(turns.joined((id + 1) % 3, now, &mut crashes), None);
                assert_eq!(turns.down().map(|down| down.id), Some(id));
                let took = Duration::from_millis(took);
                assert_eq!(turns.joined(id, now, &mut crashes), Some(took));
                assert_eq!(turns.joined(id, now, &mut crashes), None, "it was back");
            }
            assert_eq!(order, [1, 0, 2, 1]);
            let expected = Crashes {
                crashes: 4,
                recoveries: 4,
                longest_recovery_ms: Some(30),
            };
            assert_eq!(crashes, expected);
        })
        .expect("io_uring");
    }
}
