//! The messages of reads, as bytes.

use super::{Input, WireError, kind, put_bytes, put_numbers};
use crate::ids::{Checksum, ClientId, OpNumber, RequestNumber, RoundNumber};
use crate::message::{
    GetView, Message, NormalView, Read, ReadConsistency, ReadOutcome, ReadReply, Round, RoundOk,
};
use crate::replica::Answerable;
use alloc::vec::Vec;

/// A read whose reader asks the backups itself.
const CONFIRMS: u8 = 4;

pub(super) fn put_round(out: &mut Vec<u8>, round: Round) {
    let Round { view, root, number } = round;
    put_numbers(out, &[view.0, root.0, number.0]);
}

pub(super) fn put_round_ok(out: &mut Vec<u8>, ok: RoundOk) {
    put_numbers(out, &[ok.view.0, ok.number.0]);
    out.extend_from_slice(&ok.promise_us.to_le_bytes());
}

/// Appends the bytes of a read.
pub fn encode_read(read: &Read<impl AsRef<[u8]>>, out: &mut Vec<u8>) {
    put_numbers(out, &[read.client.0, read.number.0]);
    out.push(match read.consistency {
        ReadConsistency::Log => 0,
        ReadConsistency::ReadIndex if read.confirms => CONFIRMS,
        ReadConsistency::ReadIndex => 1,
        ReadConsistency::Lease => 2,
        ReadConsistency::Local => 3,
    });
    put_bytes(out, read.body.as_ref());
}

/// Appends the bytes of the reply to a read.
pub fn encode_read_reply(reply: &ReadReply, out: &mut Vec<u8>) {
    put_numbers(out, &[reply.view.0, reply.client.0, reply.number.0]);
    match &reply.outcome {
        ReadOutcome::Result { as_of, stale, body } => put_read_result(*as_of, *stale, body, out),
        ReadOutcome::NotPrimary => out.push(1),
        ReadOutcome::Busy => out.push(2),
        ReadOutcome::TooLarge => out.push(3),
        ReadOutcome::Unconfirmed { as_of, root, body } => {
            put_unconfirmed(*as_of, *root, body, out);
        }
    }
}

/// Appends the bytes of the reply to a read that the state machine answered with `result`.
pub fn encode_read_result(answered: &Answerable, result: &[u8], out: &mut Vec<u8>) {
    let Answerable {
        read, view, as_of, ..
    } = answered;
    put_numbers(out, &[view.0, read.client.0, read.number.0]);
    match answered.unconfirmed {
        Some(root) => put_unconfirmed(*as_of, root, result, out),
        None => put_read_result(*as_of, answered.is_stale, result, out),
    }
}

fn put_unconfirmed(as_of: OpNumber, root: Checksum, body: &[u8], out: &mut Vec<u8>) {
    out.push(4);
    put_numbers(out, &[as_of.0, root.0]);
    put_bytes(out, body);
}

fn put_read_result(as_of: OpNumber, stale: bool, body: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    put_numbers(out, &[as_of.0]);
    out.push(u8::from(stale));
    put_bytes(out, body);
}

/// Appends the bytes of a reader's question.
pub fn encode_get_view(get: &GetView, out: &mut Vec<u8>) {
    put_numbers(out, &[get.client.0, get.number.0]);
}

/// Appends the bytes of the answer to it.
pub fn encode_normal_view(told: &NormalView, out: &mut Vec<u8>) {
    let NormalView {
        view,
        root,
        client,
        number,
    } = told;
    put_numbers(out, &[view.0, root.0, client.0, number.0]);
}

pub(super) fn get_of_reads(kind: u8, input: &mut Input<'_>) -> Result<Message, WireError> {
    Ok(match kind {
        kind::READ => Message::Read(get_read(input)?),
        kind::READ_REPLY => Message::ReadReply(get_read_reply(input)?),
        kind::ROUND => Message::Round(Round {
            view: input.view()?,
            root: input.checksum()?,
            number: RoundNumber(input.number()?),
        }),
        kind::ROUND_OK => Message::RoundOk(RoundOk {
            view: input.view()?,
            number: RoundNumber(input.number()?),
            promise_us: u32::from_le_bytes(input.array()?),
        }),
        kind::GET_VIEW => Message::GetView(GetView {
            client: ClientId(input.number()?),
            number: RoundNumber(input.number()?),
        }),
        kind::NORMAL_VIEW => Message::NormalView(NormalView {
            view: input.view()?,
            root: input.checksum()?,
            client: ClientId(input.number()?),
            number: RoundNumber(input.number()?),
        }),
        unknown => return Err(WireError::UnknownKind(unknown)),
    })
}

fn get_read(input: &mut Input<'_>) -> Result<Read, WireError> {
    let (client, number) = (ClientId(input.number()?), RequestNumber(input.number()?));
    let how = input.byte()?;
    Ok(Read {
        client,
        number,
        consistency: match how {
            0 => ReadConsistency::Log,
            1 | CONFIRMS => ReadConsistency::ReadIndex,
            2 => ReadConsistency::Lease,
            3 => ReadConsistency::Local,
            tag => return Err(WireError::BadTag(tag)),
        },
        confirms: how == CONFIRMS,
        body: input.bytes()?,
    })
}

fn get_read_reply(input: &mut Input<'_>) -> Result<ReadReply, WireError> {
    Ok(ReadReply {
        view: input.view()?,
        client: ClientId(input.number()?),
        number: RequestNumber(input.number()?),
        outcome: match input.byte()? {
            0 => ReadOutcome::Result {
                as_of: input.op()?,
                stale: input.flag()?,
                body: input.bytes()?,
            },
            1 => ReadOutcome::NotPrimary,
            2 => ReadOutcome::Busy,
            3 => ReadOutcome::TooLarge,
            4 => ReadOutcome::Unconfirmed {
                as_of: input.op()?,
                root: input.checksum()?,
                body: input.bytes()?,
            },
            tag => return Err(WireError::BadTag(tag)),
        },
    })
}
