//! What the checker notices of what ought to happen now and then.

use viewring_protocol::{Ignored, OpNumber, Replica, Role, View, WaitingReason};

use super::{Checker, Seen};
use crate::cluster::sometimes::Mark;

impl Checker {
    pub(super) fn mark_new_view(&mut self, replica: &Replica, before: Seen) {
        if replica.view() == View::ZERO {
            return;
        }
        self.marks.hit(Mark::ViewChange);
        if replica.op().0 > self.commits() {
            self.marks.hit(Mark::UncommittedTailKept);
        }
        let older = |seen: &Seen| seen.log_view < before.log_view && seen.op > before.commit;
        if self.replicas.iter().any(older) {
            self.marks.hit(Mark::OlderLogViewLost);
        }
    }

    pub(super) fn mark(&mut self, replica: &Replica, before: Seen, now: Seen) {
        if now.log_view > before.log_view && self.has_lost_a_tail(replica, before) {
            self.marks.hit(Mark::UncommittedTailCut);
        }
        if before.role == Role::CatchingUp && now.role == Role::Backup {
            self.marks.hit(Mark::CaughtUpIntoNewerView);
        }
        if now.role == Role::CatchingUp && replica.primary() == replica.id() {
            self.marks.hit(Mark::NewPrimaryLagged);
        }
        if replica.is_abdicating() {
            self.marks.hit(Mark::Abdication);
        }
        self.mark_reads(replica);
        let ignored = |reason| replica.counters().ignored(reason) > 0;
        if ignored(Ignored::OtherGroup) {
            self.marks.hit(Mark::DeadGroupIgnored);
        }
        if ignored(Ignored::StaleNonce) {
            self.marks.hit(Mark::StaleAnswerIgnored);
        }
        if ignored(Ignored::Busy) {
            self.marks.hit(Mark::ToldBusy);
        }
        if ignored(Ignored::Diverged) {
            self.marks.hit(Mark::OtherLogIgnored);
        }
        if now.role == Role::Outside && self.outside.contains(replica.id()) {
            self.marks.hit(Mark::RestartedReplicaWaits);
        }
        if before.role == Role::Recovering {
            self.mark_recovery(replica, before, now);
        }
        let views_skipped = now.view.0 > before.view.0 + 1;
        if views_skipped {
            self.marks.hit(Mark::ViewSkipped);
        }
    }

    fn mark_recovery(&mut self, replica: &Replica, before: Seen, now: Seen) {
        if matches!(now.waiting, Some(WaitingReason::MemoryLost { .. })) {
            self.marks.hit(Mark::MemoryLost);
        }
        let is_changing = |seen: &Seen| matches!(seen.role, Role::ViewChange | Role::CatchingUp);
        if self.replicas.iter().any(is_changing) {
            self.marks.hit(Mark::RecoveryDuringViewChange);
        }
        if now.role == Role::Recovering {
            if now.commit > before.commit {
                self.marks.hit(Mark::PartOfMemoryKept);
            }
            return;
        }
        self.marks.hit(Mark::Recovered);
        if now.op > before.commit && now.op.0 > self.commits() {
            self.marks.hit(Mark::UncommittedTailRecovered);
        }
        if replica.counters().ignored(Ignored::StaleNonce) > 0 {
            self.marks.hit(Mark::StaleMemoryIgnored);
        }
    }

    /// Whether an entry that the replica had in its old log is not in its new one.
    fn has_lost_a_tail(&self, replica: &Replica, before: Seen) -> bool {
        let Some(old) = self.logs.get(&before.log_view) else {
            return false;
        };
        let range = OpNumber(before.commit.0 + 1)..=before.op;
        if range.is_empty() {
            return false;
        }
        old.range(range)
            .any(|(&op, &checksum)| op >= replica.base() && replica.checksum(op) != Some(checksum))
    }
}
