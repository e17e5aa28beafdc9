//! What we write into an SQE's `user_data` and find in its completions.
//!
//! ```text
//! 63   56 55          32 31                 0
//! | tag  | generation   | index              |
//! ```

use crate::reactor::OpKey;

/// Whose completion it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UserData {
    /// An operation of the table.
    Op(OpKey),
    /// The second half of an operation of the table: the sync after a write.
    Sync(OpKey),
    /// The deadline timer, by the generation of its arming.
    Timer(u32),
    /// The change of the deadline timer; only failures are posted.
    TimerUpdate(u32),
    /// A request to cancel: its own completion, not the target's.
    Cancel,
    /// The read of the wake-up eventfd.
    Wake,
    /// A message to another ring was delivered, or not: the slot of the message.
    MessageSent(u32),
    /// A message from another ring.
    MessageReceived,
    /// A descriptor was closed.
    Close,
    /// None of ours.
    Unknown(u64),
}

const TAG_SHIFT: u32 = 56;
const GENERATION_SHIFT: u32 = 32;

const OP: u64 = 1;
const TIMER: u64 = 2;
const TIMER_UPDATE: u64 = 3;
const CANCEL: u64 = 4;
const WAKE: u64 = 5;
const MESSAGE_SENT: u64 = 6;
const MESSAGE_RECEIVED: u64 = 7;
const SYNC: u64 = 8;
const CLOSE: u64 = 9;

impl UserData {
    /// The bits of a generation that survive the trip. Who compares generations keeps to them.
    pub(super) const GENERATION_MASK: u32 = (1 << OpKey::GENERATION_BITS) - 1;

    pub(super) fn encode(self) -> u64 {
        let pack = |tag: u64, generation: u32, index: u32| {
            let generation = u64::from(generation & Self::GENERATION_MASK);
            tag << TAG_SHIFT | generation << GENERATION_SHIFT | u64::from(index)
        };
        match self {
            Self::Op(key) => pack(OP, key.generation, key.index),
            Self::Sync(key) => pack(SYNC, key.generation, key.index),
            Self::Timer(generation) => pack(TIMER, generation, 0),
            Self::TimerUpdate(generation) => pack(TIMER_UPDATE, generation, 0),
            Self::Cancel => pack(CANCEL, 0, 0),
            Self::Wake => pack(WAKE, 0, 0),
            Self::MessageSent(index) => pack(MESSAGE_SENT, 0, index),
            Self::MessageReceived => pack(MESSAGE_RECEIVED, 0, 0),
            Self::Close => pack(CLOSE, 0, 0),
            Self::Unknown(raw) => raw,
        }
    }

    pub(super) fn decode(raw: u64) -> Self {
        let generation = (raw >> GENERATION_SHIFT) as u32 & Self::GENERATION_MASK;
        let index = raw as u32;
        match raw >> TAG_SHIFT {
            OP => Self::Op(OpKey { index, generation }),
            SYNC => Self::Sync(OpKey { index, generation }),
            TIMER => Self::Timer(generation),
            TIMER_UPDATE => Self::TimerUpdate(generation),
            CANCEL => Self::Cancel,
            WAKE => Self::Wake,
            MESSAGE_SENT => Self::MessageSent(index),
            MESSAGE_RECEIVED => Self::MessageReceived,
            CLOSE => Self::Close,
            _ => Self::Unknown(raw),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_trip() {
        let key = OpKey {
            index: u32::MAX - 1,
            generation: (1 << OpKey::GENERATION_BITS) - 1,
        };
        let kinds = [
            UserData::Op(key),
            UserData::Sync(key),
            UserData::Timer(7),
            UserData::TimerUpdate(8),
            UserData::Cancel,
            UserData::Wake,
            UserData::MessageSent(9),
            UserData::MessageReceived,
            UserData::Close,
        ];
        for kind in kinds {
            assert_eq!(UserData::decode(kind.encode()), kind);
        }
        assert_eq!(UserData::decode(0), UserData::Unknown(0));
    }
}
