//! Plots: sequences of faults that are aimed together.
//!
//! Some mistakes show only where several things happen in one order: an answer is held back, the
//! view changes twice, and then it comes. Faults that strike by chance do not come to that in a
//! thousand years. A plot is such a sequence, of which nothing is fixed but the order: when, for
//! how long, to whom and how often is drawn. Each tempts one rule of the protocol. Besides it the
//! world is calm, so a plot may demand what no run with other faults could: that a view stays, or
//! that entries are there in time.
//!
//! | plot | tempts |
//! |---|---|
//! | [`suspicions`] | suspicions of long ago do not add up, and those of who waits still do |
//! | [`entries`] | what comes early is kept; who commits nothing makes way |
//! | [`tail`] | what was cut off, and what was said of it, counts for nothing |
//! | [`lives`] | what an earlier life of a replica, or of a client, was told or said is not used |
//! | [`reading`] | a lease ends before its promises; an answer is of its own round, or view |
//! | [`distance`] | far apart, a view is given the time that it needs |

mod distance;
mod entries;
mod lives;
mod reading;
mod scene;
mod suspicions;
mod tail;

use std::time::Duration;

use viewring_runtime::sim::Random;

pub(super) use self::scene::Scene;
use super::faults::Faults;
use super::stage::Held;
use super::workload::{Reads, Workload};

/// Which plot a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plot {
    /// One backup after the other loses touch, seconds apart.
    ScatteredSuspicions,
    /// Suspicions wait for one that stands still.
    SuspicionsThatWaited,
    /// No view starts for a while, and every replica that is left is needed for the next.
    AllThatAreLeft,
    /// Entries overtake one that nothing else can bring.
    OvertakenEntry,
    /// Entries of a primary that else is heard get to nobody.
    EntriesLost,
    /// A primary loses the end of its log, and leads again.
    TailCutOff,
    /// What a replica was told in its last life comes in the next one.
    EarlierLife,
    /// A replica is restarted while all are between views.
    RestartBetweenViews,
    /// A client leaves in the middle of a call, and comes back before the call does.
    LateRequest,
    /// A primary with a lease is split off, and a reader with it.
    LeaseAtItsLimits,
    /// One that has promised is restarted while others have voted.
    PromiseOfAnEarlierLife,
    /// Answers to rounds come again to a primary that is one no more.
    RoundsOfThePast,
    /// A primary leaves its view in the turn in which it is asked to read.
    LeftInTheSameTurn,
    /// A new primary has all that was committed, and does not know that it was.
    NewPrimaryKnowsLess,
    /// Replicas are far apart.
    FarApart,
}

impl Plot {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::ScatteredSuspicions,
        Self::SuspicionsThatWaited,
        Self::AllThatAreLeft,
        Self::OvertakenEntry,
        Self::EntriesLost,
        Self::TailCutOff,
        Self::EarlierLife,
        Self::RestartBetweenViews,
        Self::LateRequest,
        Self::LeaseAtItsLimits,
        Self::PromiseOfAnEarlierLife,
        Self::RoundsOfThePast,
        Self::LeftInTheSameTurn,
        Self::NewPrimaryKnowsLess,
        Self::FarApart,
    ];

    pub(super) fn draw(random: &mut Random) -> Self {
        Self::ALL[random.index(Self::ALL.len())]
    }

    /// What a run with this plot has from its beginning to its end: no faults but those of the
    /// plot.
    pub(super) fn conditions(self, random: &mut Random) -> Faults {
        let calm = Faults {
            plot: Some(self),
            ..Faults::none()
        };
        let ms = Duration::from_millis;
        match self {
            Self::LeaseAtItsLimits => Faults {
                readers: 2,
                lease: Some(ms(random.between(150..=1_200))),
                drift_ppm: [0, 200_000, 400_000][random.index(3)],
                ..calm
            },
            Self::EntriesLost => Faults {
                lease: Some(ms(random.between(150..=600))),
                ..calm
            },
            Self::PromiseOfAnEarlierLife => Faults {
                readers: 2,
                lease: Some(ms(random.between(600..=2_000))),
                ..calm
            },
            Self::NewPrimaryKnowsLess | Self::RoundsOfThePast | Self::LeftInTheSameTurn => {
                Faults { readers: 2, ..calm }
            }
            Self::FarApart => Faults {
                distance: Some(distance::draw(random)),
                ..calm
            },
            Self::ScatteredSuspicions
            | Self::SuspicionsThatWaited
            | Self::AllThatAreLeft
            | Self::OvertakenEntry
            | Self::TailCutOff
            | Self::EarlierLife
            | Self::RestartBetweenViews
            | Self::LateRequest => calm,
        }
    }

    /// Clients that do not rest, and whose calls fit into a datagram.
    pub(super) fn workload(random: &mut Random) -> Workload {
        Workload {
            keys: random.between(1..=5) as u8,
            calls: u32::MAX,
            last_calls: 5,
            pause: Duration::from_millis(random.between(4..=40)),
            bursts: 0.0,
            value_bytes: 8,
            reads: Reads::Mixed,
            only_reads: false,
        }
    }

    /// It happens now. Something that must hold in a calm world may not.
    pub(super) fn play(self, scene: &mut Scene<'_>) -> Held {
        match self {
            Self::ScatteredSuspicions => suspicions::scattered(scene),
            Self::SuspicionsThatWaited => suspicions::that_waited(scene),
            Self::AllThatAreLeft => suspicions::of_all_that_are_left(scene),
            Self::OvertakenEntry => entries::overtaken(scene),
            Self::EntriesLost => entries::lost(scene),
            Self::TailCutOff => tail::cut_off(scene),
            Self::EarlierLife => lives::of_a_replica(scene),
            Self::RestartBetweenViews => lives::of_a_replica_between_views(scene),
            Self::LateRequest => lives::of_a_client(scene),
            Self::LeaseAtItsLimits => reading::lease_at_its_limits(scene),
            Self::PromiseOfAnEarlierLife => reading::promise_of_an_earlier_life(scene),
            Self::RoundsOfThePast => reading::rounds_of_the_past(scene),
            Self::LeftInTheSameTurn => reading::left_in_the_same_turn(scene),
            Self::NewPrimaryKnowsLess => reading::new_primary_knows_less(scene),
            Self::FarApart => distance::far_apart(scene),
        }
    }
}
