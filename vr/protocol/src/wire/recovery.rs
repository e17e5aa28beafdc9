//! The messages of a recovery, as bytes.

use super::{Input, WireError, get_tail, kind, put_numbers, put_tail};
use crate::ids::Nonce;
use crate::message::{Message, Recovery, RecoveryResponse};
use alloc::vec::Vec;

pub(super) fn put_recovery(out: &mut Vec<u8>, recovery: Recovery) {
    let Recovery { view, root, nonce } = recovery;
    put_numbers(out, &[view.0, root.0, nonce.0]);
}

pub(super) fn put_recovery_response(out: &mut Vec<u8>, response: &RecoveryResponse) {
    put_numbers(out, &[response.view.0, response.root.0, response.nonce.0]);
    out.push(u8::from(response.tail.is_some()));
    if let Some(tail) = &response.tail {
        put_tail(out, tail);
    }
}

pub(super) fn get_of_recovery(kind: u8, input: &mut Input<'_>) -> Result<Message, WireError> {
    let (view, root, nonce) = (input.view()?, input.checksum()?, Nonce(input.number()?));
    if kind == kind::RECOVERY {
        return Ok(Message::Recovery(Recovery { view, root, nonce }));
    }
    let has_tail = input.flag()?;
    Ok(Message::RecoveryResponse(RecoveryResponse {
        view,
        root,
        nonce,
        tail: has_tail.then(|| get_tail(input)).transpose()?,
    }))
}
