//! The messages of reads and rounds.

use super::{number, numbers, telling};
use proptest::prelude::*;
use viewring_protocol::{
    Checksum, ClientId, GetView, Message, NormalView, OpNumber, Read, ReadConsistency, ReadOutcome,
    ReadReply, RequestNumber, Round, RoundNumber, RoundOk, View,
};

/// Kinds, messages, and their bytes.
pub(crate) fn golden() -> Vec<(u8, Message, String)> {
    vec![
        (
            16,
            Message::Read(Read {
                client: ClientId(1),
                number: RequestNumber(2),
                consistency: ReadConsistency::Local,
                confirms: false,
                body: (*b"?").into(),
            }),
            numbers(&["01", "02"]) + "03" + "010000003f",
        ),
        (
            16,
            Message::Read(Read {
                client: ClientId(1),
                number: RequestNumber(2),
                consistency: ReadConsistency::ReadIndex,
                confirms: true,
                body: (*b"?").into(),
            }),
            numbers(&["01", "02"]) + "04" + "010000003f",
        ),
        (
            17,
            Message::ReadReply(ReadReply {
                view: View(3),
                client: ClientId(1),
                number: RequestNumber(2),
                outcome: ReadOutcome::Unconfirmed {
                    as_of: OpNumber(4),
                    root: Checksum(5),
                    body: (*b"!").into(),
                },
            }),
            numbers(&["03", "01", "02"]) + "04" + &numbers(&["04", "05"]) + "0100000021",
        ),
        (
            20,
            Message::GetView(GetView {
                client: ClientId(1),
                number: RoundNumber(2),
            }),
            numbers(&["01", "02"]),
        ),
        (
            21,
            Message::NormalView(NormalView {
                view: View(1),
                root: Checksum(2),
                client: ClientId(3),
                number: RoundNumber(4),
            }),
            numbers(&["01", "02", "03", "04"]),
        ),
        (
            17,
            Message::ReadReply(ReadReply {
                view: View(3),
                client: ClientId(1),
                number: RequestNumber(2),
                outcome: ReadOutcome::Result {
                    as_of: OpNumber(4),
                    stale: true,
                    body: (*b"!").into(),
                },
            }),
            numbers(&["03", "01", "02"]) + "00" + &number("04") + "01" + "0100000021",
        ),
        (
            18,
            Message::Round(Round {
                view: View(1),
                root: Checksum(2),
                number: RoundNumber(3),
            }),
            numbers(&["01", "02", "03"]),
        ),
        (
            19,
            Message::RoundOk(RoundOk {
                view: View(1),
                number: RoundNumber(2),
                promise_us: 3,
            }),
            numbers(&["01", "02"]) + "03000000",
        ),
    ]
}

pub(crate) fn a_message() -> impl Strategy<Value = Message> {
    let three = || (telling(), telling(), telling());
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    let consistency = prop_oneof![
        Just((ReadConsistency::Log, false)),
        Just((ReadConsistency::ReadIndex, false)),
        Just((ReadConsistency::ReadIndex, true)),
        Just((ReadConsistency::Lease, false)),
        Just((ReadConsistency::Local, false)),
    ];
    let outcome = prop_oneof![
        (telling(), any::<bool>(), bytes()).prop_map(|(as_of, stale, body)| ReadOutcome::Result {
            as_of: OpNumber(as_of),
            stale,
            body: body.into(),
        }),
        (telling(), telling(), bytes()).prop_map(|(as_of, root, body)| ReadOutcome::Unconfirmed {
            as_of: OpNumber(as_of),
            root: Checksum(root),
            body: body.into(),
        }),
        Just(ReadOutcome::NotPrimary),
        Just(ReadOutcome::Busy),
        Just(ReadOutcome::TooLarge),
    ];
    prop_oneof![
        (telling(), telling(), consistency, bytes()).prop_map(
            |(client, number, (consistency, confirms), body)| Message::Read(Read {
                client: ClientId(client),
                number: RequestNumber(number),
                consistency,
                confirms,
                body: body.into(),
            })
        ),
        (three(), outcome).prop_map(|((view, client, number), outcome)| {
            Message::ReadReply(ReadReply {
                view: View(view),
                client: ClientId(client),
                number: RequestNumber(number),
                outcome,
            })
        }),
        three().prop_map(|(view, root, number)| Message::Round(Round {
            view: View(view),
            root: Checksum(root),
            number: RoundNumber(number),
        })),
        (telling(), telling()).prop_map(|(client, number)| Message::GetView(GetView {
            client: ClientId(client),
            number: RoundNumber(number),
        })),
        (three(), telling()).prop_map(|((view, root, client), number)| {
            Message::NormalView(NormalView {
                view: View(view),
                root: Checksum(root),
                client: ClientId(client),
                number: RoundNumber(number),
            })
        }),
        (telling(), telling(), any::<u32>()).prop_map(|(view, number, promise_us)| {
            Message::RoundOk(RoundOk {
                view: View(view),
                number: RoundNumber(number),
                promise_us,
            })
        }),
    ]
}
