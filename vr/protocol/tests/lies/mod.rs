//! What a liar says, so that it is believed, and the timeouts that come between.

use crate::{foreign, skip};
use viewring_protocol::*;

/// What a replica asked for, last.
enum Asked {
    Entries(GetState),
    Piece(GetCheckpoint),
}

/// Makes a lie fit: with the root, the parents and the nonces that the victim will believe.
pub(crate) fn fit(message: Message, truth: &[Message], victim: &Replica) -> Message {
    let root = victim.group_checksum().unwrap_or_default();
    let asked = truth.iter().rev().find_map(|message| match message {
        Message::GetState(get) => Some(Asked::Entries(*get)),
        Message::GetCheckpoint(get) => Some(Asked::Piece(*get)),
        _ => None,
    });
    let asks = truth.iter().rev().find_map(|message| match message {
        Message::Recovery(recovery) => Some(recovery.nonce),
        _ => None,
    });
    let rebase = |entries: Vec<Entry>, op: OpNumber, parent: Checksum| {
        let mut parent = parent;
        let chain = (op.0.saturating_add(1)..).zip(&entries).map(|(op, entry)| {
            let (client, session) = (entry.client(), entry.session());
            let (number, kind, body) = (entry.number(), entry.kind(), entry.body().clone());
            let request = Request {
                client,
                session,
                number,
                kind,
                body,
            };
            let entry = Entry::new(OpNumber(op), entry.view(), parent, &request);
            parent = entry.checksum();
            entry
        });
        chain.collect()
    };
    let head = victim.entry(victim.op()).map_or(root, Entry::checksum);
    match message {
        Message::Prepare(prepare) => {
            let entries = rebase(prepare.entries, victim.op(), head);
            Message::Prepare(Prepare {
                root,
                entries,
                ..prepare
            })
        }
        Message::PrepareOk(ok) => Message::PrepareOk(PrepareOk {
            checksum: head,
            ..ok
        }),
        Message::DoViewChange(brought) => Message::DoViewChange(DoViewChange { root, ..brought }),
        Message::Commit(commit) => Message::Commit(Commit { root, ..commit }),
        Message::StartView(start) => Message::StartView(StartView { root, ..start }),
        Message::StartViewChange(wish) => {
            Message::StartViewChange(StartViewChange { root, ..wish })
        }
        Message::Round(round) => Message::Round(Round { root, ..round }),
        Message::NewState(new) => match asked {
            Some(Asked::Entries(get)) => {
                let entries = rebase(new.entries, get.after, get.checksum);
                let (view, nonce) = (get.view, get.nonce);
                Message::NewState(NewState {
                    view,
                    nonce,
                    entries,
                    ..new
                })
            }
            Some(Asked::Piece(_)) | None => Message::NewState(new),
        },
        Message::CheckpointChunk(chunk) => {
            let foreign = foreign::checkpoint();
            let summary = foreign.summary();
            let offered = |view, nonce, offset, bytes: &[u8]| {
                Message::CheckpointChunk(CheckpointChunk {
                    view,
                    nonce,
                    summary,
                    offset,
                    bytes: bytes.into(),
                })
            };
            match asked {
                Some(Asked::Entries(get)) => offered(get.view, get.nonce, 0, &[]),
                Some(Asked::Piece(get)) => {
                    let bytes = foreign.bytes(get.offset, 40);
                    offered(get.view, get.nonce, get.offset, bytes)
                }
                None => Message::CheckpointChunk(chunk),
            }
        }
        Message::Recovery(recovery) => Message::Recovery(Recovery { root, ..recovery }),
        Message::RecoveryResponse(response) => Message::RecoveryResponse(RecoveryResponse {
            root,
            nonce: asks.unwrap_or(response.nonce),
            ..response
        }),
        other => other,
    }
}

pub(crate) fn timeout(replica: &mut Replica, which: u8, effects: &mut Effects) {
    let progress = match which % 10 {
        0 => replica.resend_prepares(effects),
        1 => replica.heartbeat(effects),
        2 => replica.abdicate(effects),
        3 => replica.suspect_primary(effects),
        4 => replica.resend_view_change(effects),
        5 => replica.give_up_view(effects),
        6 => {
            replica.renew_vote(effects);
            replica.resend_get_state(effects)
        }
        7 => replica.renew_round(),
        8 => replica.begin_recovery(effects),
        _ => replica.announce(effects),
    };
    skip(progress);
}
