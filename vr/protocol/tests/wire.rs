//! The bytes: fixed, strict, and harmless.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "most messages are taken as they are"
)]

mod foreign;
mod lies;
mod wire_reads;

use proptest::prelude::*;
use viewring_protocol::wire::{self, WireError};
use viewring_protocol::{
    CheckpointChunk, Checksum, ClientId, Commit, Configuration, Digest, DoViewChange, Effect,
    Effects, Entry, GetCheckpoint, GetState, Header, Hello, Incarnation, Kind, Message, NewState,
    Nonce, OpNumber, Options, Outcome, Prepare, PrepareOk, Progress, Record, Recovery,
    RecoveryResponse, Replica, ReplicaId, Reply, Request, RequestNumber, Standing, StartView,
    StartViewChange, Summary, Tail, View,
};

/// What no timeout of this test waits for.
fn skip(_: Progress) {}

fn bytes_of(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode(message, &mut bytes);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn request() -> Request {
    Request {
        client: ClientId(1),
        session: OpNumber(2),
        number: RequestNumber(3),
        kind: Kind::Operation,
        body: [0xab, 0xcd].into(),
    }
}

fn reply(outcome: Outcome) -> Message {
    let (view, client, number) = (View(1), ClientId(2), RequestNumber(3));
    Message::Reply(Reply {
        view,
        client,
        session: OpNumber(4),
        number,
        outcome,
    })
}

fn tail() -> Tail {
    let header = |view, checksum| Header {
        view: View(view),
        checksum: Checksum(checksum),
    };
    Tail::new(OpNumber(4), vec![header(5, 6), header(7, 8)]).expect("two headers")
}

fn summary() -> Summary {
    Summary {
        op: OpNumber(7),
        header: Header {
            view: View(8),
            checksum: Checksum(9),
        },
        digest: Digest((0x0a << 64) | 0x0b),
        len: 12,
    }
}

/// A number as it must appear, given in little-endian hex digits without its trailing zeros.
fn number(start: &str) -> String {
    format!("{start:0<16}")
}

fn numbers(starts: &[&str]) -> String {
    starts.iter().map(|start| number(start)).collect()
}

/// A walk-in has no session, and a kind of its own.
#[test]
fn golden_bytes_of_a_walk_ins_entry() {
    let walk_in = Request {
        session: OpNumber(0),
        kind: Kind::WalkIn,
        ..request()
    };
    let entry = Entry::new(OpNumber(9), View(1), Checksum(0x11), &walk_in);
    let message = Message::Prepare(Prepare {
        view: View(5),
        root: Checksum(6),
        entries: vec![entry],
        commit: OpNumber(7),
    });
    let golden = numbers(&["05", "06", "07", "09", "11"])
        + "01000000"
        + &numbers(&["01", "01", "00", "03"])
        + "04"
        + "02000000"
        + "abcd";
    check_golden(3, message, &golden);
}

#[test]
fn golden_bytes() {
    let entry = Entry::new(OpNumber(9), View(1), Checksum(0x11), &request());
    let run = numbers(&["09", "11"])
        + "01000000"
        + &numbers(&["01", "01", "02", "03"])
        + "01"
        + "02000000"
        + "abcd";
    let two = numbers(&["04"]) + "02000000" + &numbers(&["05", "06", "07", "08"]);
    let cases = [
        (
            1,
            Message::Request(request()),
            numbers(&["01", "02", "03"]) + "01" + "02000000abcd",
        ),
        (
            3,
            Message::Prepare(Prepare {
                view: View(1),
                root: Checksum(5),
                entries: vec![entry.clone()],
                commit: OpNumber(8),
            }),
            numbers(&["01", "05", "08"]) + &run,
        ),
        (
            4,
            Message::PrepareOk(PrepareOk {
                view: View(1),
                op: OpNumber(2),
                checksum: Checksum(u64::MAX),
            }),
            numbers(&["01", "02", "ffffffffffffffff"]),
        ),
        (
            5,
            Message::Commit(Commit {
                view: View(1),
                root: Checksum(5),
                commit: OpNumber(2),
            }),
            numbers(&["01", "05", "02"]),
        ),
        (
            6,
            Message::StartViewChange(StartViewChange {
                view: View(1),
                root: Checksum(5),
                joined: true,
            }),
            numbers(&["01", "05"]) + "01",
        ),
        (
            7,
            Message::DoViewChange(DoViewChange {
                view: View(3),
                root: Checksum(1),
                log_view: View(2),
                tail: tail(),
            }),
            numbers(&["03", "01", "02"]) + &two,
        ),
        (
            8,
            Message::StartView(StartView {
                view: View(3),
                root: Checksum(5),
                tail: tail(),
            }),
            numbers(&["03", "05"]) + &two,
        ),
        (
            9,
            Message::GetState(GetState {
                view: View(1),
                after: OpNumber(2),
                checksum: Checksum(3),
                nonce: Nonce(4),
                pages: 5,
            }),
            numbers(&["01", "02", "03", "04"]) + "05",
        ),
        (
            10,
            Message::NewState(NewState {
                view: View(1),
                nonce: Nonce(4),
                entries: vec![entry],
                op: OpNumber(9),
                commit: OpNumber(8),
            }),
            numbers(&["01", "04", "09", "08"]) + &run,
        ),
        (
            11,
            Message::Hello(Hello {
                incarnation: Incarnation(1),
                locked: Some(vec![Incarnation(1), Incarnation(2)]),
                standing: Standing::Member,
                view: View(5),
            }),
            numbers(&["01", "05"]) + "0101" + "02000000" + &numbers(&["01", "02"]),
        ),
        (
            12,
            Message::Recovery(Recovery {
                view: View(5),
                root: Checksum(6),
                nonce: Nonce(7),
            }),
            numbers(&["05", "06", "07"]),
        ),
        (
            13,
            Message::RecoveryResponse(RecoveryResponse {
                view: View(5),
                root: Checksum(6),
                nonce: Nonce(7),
                tail: Some(tail()),
            }),
            numbers(&["05", "06", "07"]) + "01" + &two,
        ),
        (
            13,
            Message::RecoveryResponse(RecoveryResponse {
                view: View(5),
                root: Checksum(6),
                nonce: Nonce(7),
                tail: None,
            }),
            numbers(&["05", "06", "07"]) + "00",
        ),
        (
            14,
            Message::GetCheckpoint(GetCheckpoint {
                view: View(1),
                nonce: Nonce(4),
                summary: summary(),
                offset: 0x0102,
                pages: 5,
            }),
            numbers(&["01", "04", "07", "08", "09", "0b", "0a", "0c", "0201"]) + "05",
        ),
        (
            15,
            Message::CheckpointChunk(CheckpointChunk {
                view: View(1),
                nonce: Nonce(4),
                summary: summary(),
                offset: 3,
                bytes: [0xab].into(),
            }),
            numbers(&["01", "04", "07", "08", "09", "0b", "0a", "0c", "03"]) + "01000000ab",
        ),
    ];
    for (kind, message, golden) in cases.into_iter().chain(wire_reads::golden()) {
        check_golden(kind, message, &golden);
    }
}

fn check_golden(kind: u8, message: Message, golden: &str) {
    assert_eq!(message.kind(), kind);
    assert_eq!(hex(&bytes_of(&message)), golden, "{}", message.name());
    assert_eq!(wire::decode(kind, &bytes_of(&message)), Ok(message));
}

#[test]
fn golden_bytes_of_replies() {
    let session = OpNumber(0x0102);
    let cases = [
        (Outcome::Registered { session }, "000201000000000000"),
        (Outcome::Result([7].into()), "010100000007"),
        (Outcome::NotPrimary, "02"),
        (Outcome::Busy { retry_after_ms: 5 }, "0305000000"),
        (Outcome::NoSession, "04"),
        (Outcome::TooLarge, "05"),
        (Outcome::Evicted, "06"),
        (Outcome::ResultTooLarge, "07"),
    ];
    for (outcome, golden) in cases {
        let golden = numbers(&["01", "02", "04", "03"]) + golden;
        check_golden(2, reply(outcome), &golden);
    }
}

#[test]
fn the_checksum_of_an_entry_is_fixed() {
    let entry = Entry::new(OpNumber(9), View(1), Checksum(0x11), &request());
    assert_eq!(hex(&entry.checksum().0.to_le_bytes()), "e3cde15d1bc59823");
}

#[test]
fn a_count_beyond_the_bytes_is_refused_before_anything_is_allocated() {
    let mut bytes = vec![0; 8];
    bytes.extend_from_slice(&numbers(&["04"]).as_bytes()[..8]);
    bytes.extend_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        wire::decode(wire::kind::START_VIEW, &bytes),
        Err(WireError::Truncated)
    );
    let mut run = vec![0; 32];
    run.extend_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        wire::decode(wire::kind::PREPARE, &run),
        Err(WireError::Truncated)
    );
}

#[test]
fn what_is_not_a_message_is_refused() {
    assert_eq!(wire::decode(0, &[]), Err(WireError::UnknownKind(0)));
    assert_eq!(wire::decode(99, &[]), Err(WireError::UnknownKind(99)));
    let mut wish = bytes_of(&Message::StartViewChange(StartViewChange {
        view: View(1),
        root: Checksum(5),
        joined: false,
    }));
    wish.push(0);
    assert_eq!(
        wire::decode(wire::kind::START_VIEW_CHANGE, &wish),
        Err(WireError::Trailing)
    );
    wish.pop();
    wish[16] = 2;
    assert_eq!(
        wire::decode(wire::kind::START_VIEW_CHANGE, &wish),
        Err(WireError::BadTag(2))
    );
    let no_headers = [0; 3 * 8 + 4];
    assert_eq!(
        wire::decode(wire::kind::START_VIEW, &no_headers),
        Err(WireError::BadNumber)
    );
}

/// Numbers that mean something to a young replica, and numbers that end the range.
fn telling() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..6_u64, 1 => (u64::MAX - 3)..=u64::MAX, 1 => any::<u64>()]
}

fn a_kind() -> impl Strategy<Value = Kind> {
    use Kind::{Close, Operation, Query, Register, WalkIn};
    prop::sample::select(&[Register, Operation, Close, WalkIn, Query][..])
}

prop_compose! {
    fn a_request()(
        client in 0..3_u64, session in 0..4_u64, number in telling(), kind in a_kind(),
        body in prop::collection::vec(any::<u8>(), 0..20),
    ) -> Request {
        let (session, number) = (OpNumber(session), RequestNumber(number));
        Request { client: ClientId(client), session, number, kind, body: body.into() }
    }
}

prop_compose! {
    fn a_run()(
        first in prop_oneof![1..5_u64, 1..(u64::MAX - 9)], parent in telling(),
        requests in prop::collection::vec((0..4_u64, a_request()), 0..5),
    ) -> Vec<Entry> {
        let mut parent = Checksum(parent);
        let ops = (first..).map(OpNumber);
        let entries = ops.zip(&requests).map(|(op, (view, request))| {
            let entry = Entry::new(op, View(*view), parent, request);
            parent = entry.checksum();
            entry
        });
        entries.collect()
    }
}

prop_compose! {
    fn a_tail()(
        commit in prop_oneof![0..6_u64, 0..(u64::MAX - 9)],
        headers in prop::collection::vec((0..5_u64, telling()), 1..6),
    ) -> Tail {
        let header = |(view, sum)| Header { view: View(view), checksum: Checksum(sum) };
        let headers = headers.into_iter().map(header).collect();
        Tail::new(OpNumber(commit), headers).expect("at least one header")
    }
}

fn an_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        telling().prop_map(|session| Outcome::Registered {
            session: OpNumber(session)
        }),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|body| Outcome::Result(body.into())),
        Just(Outcome::NotPrimary),
        any::<u32>().prop_map(|retry_after_ms| Outcome::Busy { retry_after_ms }),
        Just(Outcome::Evicted),
        Just(Outcome::ResultTooLarge),
        Just(Outcome::NoSession),
        Just(Outcome::TooLarge),
    ]
}

prop_compose! {
    fn a_summary()(op in telling(), view in telling(), sum in telling(), digest in any::<u128>(),
        len in telling()) -> Summary {
        let (view, checksum) = (View(view), Checksum(sum));
        let header = Header { view, checksum };
        Summary { op: OpNumber(op), header, digest: Digest(digest), len }
    }
}

fn a_standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        Just(Standing::Forming),
        Just(Standing::Member),
        Just(Standing::Recovering),
    ]
}

fn a_message() -> impl Strategy<Value = Message> {
    let four = || (telling(), telling(), telling(), telling());
    prop_oneof![
        a_request().prop_map(Message::Request),
        (four(), an_outcome()).prop_map(|((view, client, number, session), outcome)| {
            let (view, client) = (View(view), ClientId(client));
            Message::Reply(Reply {
                view,
                client,
                session: OpNumber(session),
                number: RequestNumber(number),
                outcome,
            })
        }),
        (four(), a_run()).prop_map(|((view, commit, root, _), entries)| {
            Message::Prepare(Prepare {
                view: View(view),
                root: Checksum(root),
                entries,
                commit: OpNumber(commit),
            })
        }),
        four().prop_map(|(view, op, sum, _)| {
            let (view, op, checksum) = (View(view), OpNumber(op), Checksum(sum));
            Message::PrepareOk(PrepareOk { view, op, checksum })
        }),
        four().prop_map(|(view, commit, root, _)| {
            Message::Commit(Commit {
                view: View(view),
                root: Checksum(root),
                commit: OpNumber(commit),
            })
        }),
        (four(), any::<bool>()).prop_map(|((view, root, ..), joined)| {
            Message::StartViewChange(StartViewChange {
                view: View(view),
                root: Checksum(root),
                joined,
            })
        }),
        (four(), a_tail()).prop_map(|((view, log_view, root, _), tail)| {
            let (view, log_view, root) = (View(view), View(log_view), Checksum(root));
            Message::DoViewChange(DoViewChange {
                view,
                root,
                log_view,
                tail,
            })
        }),
        (four(), a_tail()).prop_map(|((view, root, ..), tail)| {
            Message::StartView(StartView {
                view: View(view),
                root: Checksum(root),
                tail,
            })
        }),
        (four(), any::<u8>()).prop_map(|((view, after, sum, nonce), pages)| {
            let (view, after, checksum) = (View(view), OpNumber(after), Checksum(sum));
            Message::GetState(GetState {
                view,
                after,
                checksum,
                nonce: Nonce(nonce),
                pages,
            })
        }),
        (four(), a_run()).prop_map(|((view, nonce, op, commit), entries)| {
            let (view, nonce) = (View(view), Nonce(nonce));
            let (op, commit) = (OpNumber(op), OpNumber(commit));
            Message::NewState(NewState {
                view,
                nonce,
                entries,
                op,
                commit,
            })
        }),
        (four(), a_summary()).prop_map(|((view, nonce, offset, pages), summary)| {
            let (view, nonce) = (View(view), Nonce(nonce));
            Message::GetCheckpoint(GetCheckpoint {
                view,
                nonce,
                summary,
                offset,
                pages: pages.to_le_bytes()[0],
            })
        }),
        (
            four(),
            a_summary(),
            prop::collection::vec(any::<u8>(), 0..5)
        )
            .prop_map(|((view, nonce, offset, _), summary, bytes)| {
                let (view, nonce) = (View(view), Nonce(nonce));
                Message::CheckpointChunk(CheckpointChunk {
                    view,
                    nonce,
                    summary,
                    offset,
                    bytes: bytes.into(),
                })
            }),
        (
            four(),
            a_standing(),
            prop::option::of(prop::collection::vec(telling(), 0..5))
        )
            .prop_map(|((incarnation, view, ..), standing, locked)| {
                let locked = locked.map(|all| all.into_iter().map(Incarnation).collect());
                let (incarnation, view) = (Incarnation(incarnation), View(view));
                Message::Hello(Hello {
                    incarnation,
                    locked,
                    standing,
                    view,
                })
            }),
        wire_reads::a_message(),
        four().prop_map(|(view, root, nonce, _)| {
            let (view, root, nonce) = (View(view), Checksum(root), Nonce(nonce));
            Message::Recovery(Recovery { view, root, nonce })
        }),
        (four(), prop::option::of(a_tail())).prop_map(|((view, root, nonce, _), tail)| {
            Message::RecoveryResponse(RecoveryResponse {
                view: View(view),
                root: Checksum(root),
                nonce: Nonce(nonce),
                tail,
            })
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn round_trip(message in a_message()) {
        let bytes = bytes_of(&message);
        prop_assert_eq!(wire::decode(message.kind(), &bytes), Ok(message.clone()));
        // Strict: nothing shorter is a message, nor anything longer.
        for len in 0..bytes.len() {
            prop_assert!(wire::decode(message.kind(), &bytes[..len]).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(wire::decode(message.kind(), &longer).is_err());
    }

    #[test]
    fn random_bytes_never_panic(
        kind in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        drop(wire::decode(kind % 21, &bytes));
    }

    #[test]
    fn mutated_bytes_never_panic_and_mean_one_thing(
        message in a_message(),
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = bytes_of(&message);
        for (place, value) in changes {
            let len = bytes.len();
            bytes[place % len] = value;
        }
        if let Ok(read) = wire::decode(message.kind(), &bytes) {
            prop_assert_eq!(bytes_of(&read), bytes);
        }
    }

    /// A liar may say anything, in any order, in any view: no replica panics.
    #[test]
    fn lies_never_panic(
        id in 0..3_u8, begins in 0..3_u8,
        script in prop::collection::vec((0..4_u8, a_message(), any::<u8>()), 1..60),
    ) {
        let group = Configuration::new(3).expect("odd");
        let options = Options { window: 4, ..Options::default() };
        let (id, life) = (ReplicaId(id), Incarnation(3));
        let record = Record {
            incarnation: Incarnation(7),
            founders: Some(vec![Incarnation(7); 3]),
            member: true,
            view: View(1),
        };
        let mut victim = match begins {
            0 => Replica::new(id, group, options, life),
            1 => Replica::founding_member(id, group, options),
            _ => Replica::returning(id, group, options, life, record),
        };
        let mut effects = Effects::new();
        let mut said = Vec::new();
        for (from, message, choice) in script {
            let message = if choice % 2 == 0 {
                lies::fit(message, &said, &victim)
            } else {
                message
            };
            let progress = match message {
                Message::Request(request) => victim.on_request(request, &mut effects),
                Message::Read(read) => victim.on_read(read, choice % 3 == 0, &mut effects),
                Message::GetView(get) => victim.on_get_view(get, &mut effects),
                other => victim.on_message(ReplicaId(from), other, &mut effects),
            };
            if choice % 5 == 0 {
                lies::timeout(&mut victim, choice / 5, &mut effects);
            }
            let progress = progress | victim.flush(&mut effects);
            skip(progress);
            let (mut tokens, mut restores, mut drafts) = (Vec::new(), Vec::new(), Vec::new());
            for effect in effects.drain() {
                match effect {
                    Effect::Send { message, .. }
                    | Effect::Broadcast(message) => said.push(message),
                    Effect::Persist(persist) => tokens.push(persist.written()),
                    Effect::Reply(_) | Effect::ReplyWalkIn(_) | Effect::ReadReply(_) => {}
                    Effect::Remember(_) | Effect::NormalView(_) => {}
                    Effect::Restore(restore) => restores.push(restore),
                    Effect::Checkpoint(draft) => drafts.push(draft),
                }
            }
            for draft in drafts {
                victim.checkpoint_begun(&draft, &mut effects);
            }
            for restore in restores {
                if victim.is_wanted(&restore) {
                    skip(victim.restored(&restore, &mut effects));
                }
            }
            for token in tokens {
                skip(victim.on_durable(token, &mut effects));
            }
            while victim.next_to_apply().is_some() {
                victim.applied(b"done", &mut effects);
            }
            while victim.next_read().is_some() {}
        }
    }
}
