//! What can go wrong in a run: drawn from its seed. Each run switches kinds of fault on and off
//! (swarm testing), so that one kind does not hide another.

use std::time::Duration;

use viewring_runtime::sim::Random;

use super::plots::Plot;
use crate::node::LeaseConfig;

/// So much drift do leases bear in a run with bad clocks: a third of a lease is given away for it.
const MAX_LEASED_DRIFT_PPM: u32 = 200_000;

/// The kinds of fault that one run has.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Links that lose, delay, duplicate, garble.
    pub bad_links: bool,
    /// Links that are cut for a while, one way or both.
    pub cuts: bool,
    /// The primary is cut off from the other replicas, shortly and often; clients may reach it.
    pub flaps: bool,
    /// Replicas that hear nothing, or are not heard.
    pub deaf_or_mute: bool,
    /// Replicas that stand still, or are slow.
    pub pauses: bool,
    /// Replicas that stop for ever: no more than the group survives.
    pub crashes: bool,
    /// Stopped replicas that come back with an empty disk.
    pub restarts: bool,
    /// Replicas that stop and come back with their view file, and nothing else.
    pub amnesia: bool,
    /// Disks that take their time.
    pub slow_disks: bool,
    /// Disks that fail, one at a time: their replicas end.
    pub failing_disks: bool,
    /// Clocks that run at different speeds: fast or slow by up to so many millionths.
    pub drift_ppm: u32,
    /// Leases are on, which hold for so long, and bear that drift.
    pub lease: Option<Duration>,
    /// The ring's own bad days.
    pub bad_rings: bool,
    /// Messages of some kinds are lost, delayed, duplicated, or held back and let go much later.
    pub meddling: bool,
    /// One kind of message on one link is singled out for a while, or a moment; the group is split,
    /// and its clients with it.
    pub targeted: bool,
    /// Nothing else goes wrong, but this does.
    pub plot: Option<Plot>,
    /// So many clients more do nothing but read, all the time.
    pub readers: u8,
    /// The group is the second of its replicas; messages of the first are still under way.
    pub rebirth: bool,
    /// In the end a minority stays broken: it must not disturb the others.
    pub broken_minority: bool,
    /// In the end a primary stops for ever together with the one that would follow it, if the group
    /// survives that.
    pub heirs: bool,
    /// In the end replicas are this far apart.
    pub distance: Option<Duration>,
    /// The primary is the victim more often than chance would have it.
    pub hunts_primary: bool,
    /// The mean time between two faults.
    pub every: Duration,
}

impl Faults {
    /// None at all.
    pub fn none() -> Self {
        Self {
            bad_links: false,
            cuts: false,
            flaps: false,
            deaf_or_mute: false,
            pauses: false,
            crashes: false,
            restarts: false,
            amnesia: false,
            slow_disks: false,
            failing_disks: false,
            drift_ppm: 0,
            lease: None,
            bad_rings: false,
            meddling: false,
            targeted: false,
            plot: None,
            readers: 0,
            rebirth: false,
            broken_minority: false,
            heirs: false,
            distance: None,
            hunts_primary: false,
            every: Duration::from_millis(100),
        }
    }

    /// As `random` decides. Now and then nothing goes wrong at all: then the view must stay.
    pub fn draw(random: &mut Random) -> Self {
        if random.chance(0.04) {
            return Self::none();
        }
        let mut plots = random.fork(3);
        if plots.chance(0.3) {
            return Plot::draw(&mut plots).conditions(&mut plots);
        }
        // From a stream of its own: seeds without it are what they were before it was drawn.
        let failing_disks = random.fork(1).chance(0.3);
        let every = Duration::from_millis(20) + random.any_magnitude(Duration::from_secs(1));
        let distance = random.chance(0.2).then(|| {
            // A view change takes three trips; often longer than the first patience with it.
            let nearest = if random.chance(0.5) { 20 } else { 120 };
            Duration::from_millis(random.between(nearest..=200))
        });
        // With leases the drift is within what they bear; without them it is of no concern.
        let lease = random.chance(0.5).then(|| {
            // As long as the silence that a view change waits for; or longer than that.
            let longest = if random.chance(0.7) { 400 } else { 1_500 };
            Duration::from_millis(random.between(100..=longest))
        });
        let mut aim = random.fork(2);
        let mut on = |chance| random.chance(chance);
        let drift_ppm = match (on(0.4), lease) {
            (false, _) => 0,
            (true, Some(_)) => MAX_LEASED_DRIFT_PPM,
            (true, None) => 250_000,
        };
        let drawn = Self {
            bad_links: on(0.4),
            cuts: on(0.4),
            flaps: on(0.5),
            deaf_or_mute: on(0.3),
            pauses: on(0.4),
            crashes: on(0.4),
            restarts: on(0.5),
            amnesia: on(0.5),
            slow_disks: on(0.4),
            failing_disks,
            drift_ppm,
            lease,
            bad_rings: on(0.4),
            meddling: on(0.5),
            targeted: false,
            plot: None,
            readers: 0,
            rebirth: on(0.15),
            broken_minority: on(0.3),
            heirs: on(0.15),
            distance,
            hunts_primary: on(0.5),
            every,
        };
        if aim.chance(0.35) {
            drawn.with_aim(&mut aim)
        } else {
            drawn
        }
    }

    /// With targeted faults: often with these alone, since others would hide what comes of them.
    fn with_aim(self, random: &mut Random) -> Self {
        let drawn = Self {
            targeted: true,
            readers: random.below(3) as u8,
            lease: self
                .lease
                .map(|_| Duration::from_millis(random.between(100..=1_500))),
            ..self
        };
        if random.chance(0.3) {
            return drawn;
        }
        // Farther than timeouts are scaled for, by as much as the back-off makes good.
        let farther = random.chance(0.2);
        let distance = farther.then(|| Duration::from_millis(random.between(250..=400)));
        Self {
            bad_links: false,
            cuts: false,
            flaps: false,
            deaf_or_mute: false,
            pauses: false,
            slow_disks: false,
            failing_disks: false,
            bad_rings: false,
            meddling: false,
            rebirth: false,
            distance,
            every: Duration::from_secs(1),
            ..drawn
        }
    }

    /// What the group is told of leases.
    pub(super) fn lease_config(&self) -> Option<LeaseConfig> {
        self.lease.map(|duration| LeaseConfig {
            duration,
            max_clock_drift_ppm: self.drift_ppm.max(1_000),
        })
    }

    /// Whether nothing goes wrong, so that nobody may suspect anybody.
    pub fn is_none(&self) -> bool {
        let kinds = [
            self.bad_links,
            self.cuts,
            self.flaps,
            self.deaf_or_mute,
            self.pauses,
            self.crashes,
            self.amnesia,
            self.slow_disks,
            self.failing_disks,
            self.drift_ppm > 0,
            self.bad_rings,
            self.meddling,
            self.targeted,
            self.plot.is_some(),
            self.rebirth,
            self.broken_minority,
            self.heirs,
            self.distance.is_some(),
        ];
        !kinds.contains(&true)
    }

    /// How many views may begin before one rests although everything is well: votes come late where
    /// replicas are far apart, and minutes late where messages are held up or come twice.
    pub(super) fn late_views(&self) -> u32 {
        match self.distance {
            Some(_) => 2,
            None => u32::from(self.bad_links || self.meddling || self.rebirth),
        }
    }
}
