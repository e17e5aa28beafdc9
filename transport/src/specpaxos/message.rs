//! What the protobuf in a datagram says.
//!
//! Nearly every message has its fields once and in order, since that is how protobuf writes them:
//! such a one is read where it lies. What is written in another way, and still a message, is left
//! to `prost`, which is also the judge of the first in tests.

use std::borrow::Cow;
use std::fmt;

use prost::Message as _;

use super::frame::{self, Dialect, Kind};
use super::proto;

/// A message of a client or to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// See [`Kind::Request`].
    Request(Request<'a>),
    /// See [`Kind::Reply`].
    Reply(Reply<'a>),
    /// See [`Kind::UnloggedRequest`].
    UnloggedRequest(Request<'a>),
    /// See [`Kind::UnloggedReply`].
    UnloggedReply(Cow<'a, [u8]>),
}

/// A client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The operation.
    pub op: Cow<'a, [u8]>,
    /// Who asks: a random number.
    pub client: u64,
    /// The client's count of its requests, from 1.
    pub number: u64,
}

/// A replica answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The view in which the operation was prepared.
    pub view: u64,
    /// Its place in the log.
    pub op_number: u64,
    /// What came of it.
    pub result: Cow<'a, [u8]>,
    /// Which of the client's requests it answers.
    pub number: u64,
}

/// The bytes are not the protobuf that their name promises, or a field is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbled;

impl fmt::Display for Garbled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the protobuf message that its name promises")
    }
}

impl std::error::Error for Garbled {}

impl<'a> Message<'a> {
    /// Which message it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Request(_) => Kind::Request,
            Self::Reply(_) => Kind::Reply,
            Self::UnloggedRequest(_) => Kind::UnloggedRequest,
            Self::UnloggedReply(_) => Kind::UnloggedReply,
        }
    }

    /// Reads the protobuf of a message of this kind.
    ///
    /// # Errors
    /// When it is none, or a field is missing. The original uses such a message nevertheless.
    pub fn decode(kind: Kind, data: &'a [u8]) -> Result<Self, Garbled> {
        Self::decode_in_place(kind, data).map_or_else(|| Self::decode_any(kind, data), Ok)
    }

    /// Reads a message whose fields are there once and in order, and nothing else.
    pub(super) fn decode_in_place(kind: Kind, data: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(data);
        let message = match kind {
            Kind::Request => Self::Request(reader.request()?),
            Kind::UnloggedRequest => Self::UnloggedRequest(reader.request()?),
            Kind::Reply => Self::Reply(Reply {
                view: reader.number(1)?,
                op_number: reader.number(2)?,
                result: Cow::Borrowed(reader.bytes(3)?),
                number: reader.number(4)?,
            }),
            Kind::UnloggedReply => Self::UnloggedReply(Cow::Borrowed(reader.bytes(1)?)),
        };
        reader.0.is_empty().then_some(message)
    }

    /// Reads a message however it is written.
    pub(super) fn decode_any(kind: Kind, data: &[u8]) -> Result<Self, Garbled> {
        let message = match kind {
            Kind::Request => any_request(data).map(Self::Request),
            Kind::UnloggedRequest => any_request(data).map(Self::UnloggedRequest),
            Kind::Reply => any_reply(data).map(Self::Reply),
            Kind::UnloggedReply => proto::UnloggedReplyMessage::decode(data)
                .ok()
                .and_then(|message| message.reply)
                .map(|reply| Self::UnloggedReply(Cow::Owned(reply))),
        };
        message.ok_or(Garbled)
    }

    /// Appends the datagram that carries the message. It may be too long for one: see
    /// `fragment.rs`.
    pub(crate) fn encode(&self, dialect: Dialect, out: &mut Vec<u8>) {
        let data_len = match self {
            Self::Request(request) | Self::UnloggedRequest(request) => {
                bytes_len(request.inner_len())
            }
            Self::Reply(reply) => {
                let numbers = [reply.view, reply.op_number, reply.number];
                let numbers: usize = numbers.into_iter().map(number_len).sum();
                numbers + bytes_len(reply.result.len())
            }
            Self::UnloggedReply(result) => bytes_len(result.len()),
        };
        frame::encode_head(self.kind(), dialect, data_len, out);
        let start = out.len();
        match self {
            Self::Request(request) | Self::UnloggedRequest(request) => {
                put_tag(1, BYTES, out);
                put_varint(request.inner_len() as u64, out);
                put_bytes(1, &request.op, out);
                put_number(2, request.client, out);
                put_number(3, request.number, out);
            }
            Self::Reply(reply) => {
                put_number(1, reply.view, out);
                put_number(2, reply.op_number, out);
                put_bytes(3, &reply.result, out);
                put_number(4, reply.number, out);
            }
            Self::UnloggedReply(result) => put_bytes(1, result, out),
        }
        assert_eq!(out.len() - start, data_len, "the length was foreseen");
    }
}

impl Request<'_> {
    fn inner_len(&self) -> usize {
        bytes_len(self.op.len()) + number_len(self.client) + number_len(self.number)
    }
}

fn any_request(data: &[u8]) -> Option<Request<'static>> {
    let request = proto::RequestMessage::decode(data).ok()?.req?;
    Some(Request {
        op: Cow::Owned(request.op?),
        client: request.clientid?,
        number: request.clientreqid?,
    })
}

fn any_reply(data: &[u8]) -> Option<Reply<'static>> {
    let reply = proto::ReplyMessage::decode(data).ok()?;
    Some(Reply {
        view: reply.view?,
        op_number: reply.opnum?,
        result: Cow::Owned(reply.reply?),
        number: reply.clientreqid?,
    })
}

/// The protobuf not read yet. Every method is `None` where something else is written.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn request(&mut self) -> Option<Request<'a>> {
        let mut inner = Reader(self.bytes(1)?);
        let request = Request {
            op: Cow::Borrowed(inner.bytes(1)?),
            client: inner.number(2)?,
            number: inner.number(3)?,
        };
        inner.0.is_empty().then_some(request)
    }

    fn bytes(&mut self, field: u8) -> Option<&'a [u8]> {
        self.tag(field, BYTES)?;
        let len = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number(&mut self, field: u8) -> Option<u64> {
        self.tag(field, VARINT)?;
        self.varint()
    }

    fn tag(&mut self, field: u8, wire_type: u8) -> Option<()> {
        let (&tag, rest) = self.0.split_first()?;
        self.0 = rest;
        (tag == field << 3 | wire_type).then_some(())
    }

    /// At most nine bytes, which is 63 bits, or ten of which the last is the 64th bit.
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for (index, &byte) in self.0.iter().enumerate().take(VARINT_LEN_MAX) {
            if index == VARINT_LEN_MAX - 1 && byte > 1 {
                return None;
            }
            number |= u64::from(byte & 0x7F) << (7 * index);
            if byte < 0x80 {
                self.0 = &self.0[index + 1..];
                return Some(number);
            }
        }
        None
    }
}

fn put_tag(field: u8, wire_type: u8, out: &mut Vec<u8>) {
    out.push(field << 3 | wire_type);
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_number(field: u8, number: u64, out: &mut Vec<u8>) {
    put_tag(field, VARINT, out);
    put_varint(number, out);
}

fn put_bytes(field: u8, bytes: &[u8], out: &mut Vec<u8>) {
    put_tag(field, BYTES, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn varint_len(number: u64) -> usize {
    let bits = (u64::BITS - (number | 1).leading_zeros()) as usize;
    bits.div_ceil(7)
}

/// A number with its tag.
fn number_len(number: u64) -> usize {
    1 + varint_len(number)
}

/// So many bytes with their tag and length.
fn bytes_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// Protobuf's wire types.
const VARINT: u8 = 0;
const BYTES: u8 = 2;
const VARINT_LEN_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::specpaxos::frame::Datagram;

    /// Bytes from hexadecimal digits; what is in quotes stands for itself.
    fn golden(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in text.split_whitespace() {
            match word.strip_prefix('"') {
                Some(name) => bytes.extend(name.trim_end_matches('"').as_bytes()),
                None => bytes.extend(word.as_bytes().chunks(2).map(|pair| {
                    let pair = std::str::from_utf8(pair).expect("ASCII");
                    u8::from_str_radix(pair, 16).expect("two digits")
                })),
            }
        }
        bytes
    }

    fn check(message: &Message<'_>, dialect: Dialect, text: &str) {
        let expected = golden(text);
        let mut bytes = Vec::new();
        message.encode(dialect, &mut bytes);
        assert_eq!(bytes, expected);
        let Ok(Datagram::Whole(kind, data)) = frame::decode(&expected, dialect) else {
            panic!("a whole message");
        };
        let data = &expected[data];
        assert_eq!(Message::decode(kind, data).as_ref(), Ok(message));
        assert_eq!(Message::decode_in_place(kind, data).as_ref(), Some(message));
        assert_eq!(Message::decode_any(kind, data).as_ref(), Ok(message));
    }

    fn request(op: &[u8], client: u64, number: u64) -> Request<'_> {
        Request {
            op: op.into(),
            client,
            number,
        }
    }

    /// As observed on the wire.
    #[test]
    fn the_bytes_of_a_request_are_those_that_specpaxos_sends() {
        let message = Message::Request(request(b"request0", 0x1122_3344_5566_7788, 1));
        check(
            &message,
            Dialect::Specpaxos,
            r#"18030520 2100000000000000 "specpaxos.vr.proto.RequestMessage" 1800000000000000
            0a16 0a08 "request0" 10 88ef99abc5e88c9111 18 01"#,
        );
        check(
            &message,
            Dialect::Electrode,
            r#"18030520 2100000000000000 "specpaxos.vr.proto.RequestMessage"
            00000000 00000000 00000000 1800000000000000
            0a16 0a08 "request0" 10 88ef99abc5e88c9111 18 01"#,
        );
    }

    #[test]
    fn the_bytes_of_a_reply_are_those_that_specpaxos_expects() {
        let reply = Reply {
            view: 0,
            op_number: 1,
            result: b"".into(),
            number: 1,
        };
        let message = Message::Reply(reply);
        check(
            &message,
            Dialect::Specpaxos,
            r#"18030520 1f00000000000000 "specpaxos.vr.proto.ReplyMessage" 0800000000000000
            08 00 10 01 1a 00 20 01"#,
        );
        let reply = Reply {
            view: 300,
            op_number: 1 << 35,
            result: b"ab".into(),
            number: u64::MAX,
        };
        check(
            &Message::Reply(reply),
            Dialect::Electrode,
            r#"18030520 1f00000000000000 "specpaxos.vr.proto.ReplyMessage"
            000000000000000000000000 1900000000000000
            08 ac02 10 808080808001 1a 02 "ab" 20 ffffffffffffffffff01"#,
        );
    }

    #[test]
    fn the_bytes_of_what_goes_past_the_log_are_those_of_the_proto_files() {
        check(
            &Message::UnloggedRequest(request(b"?", 127, 128)),
            Dialect::Specpaxos,
            r#"18030520 2900000000000000 "specpaxos.vr.proto.UnloggedRequestMessage"
            0a00000000000000 0a08 0a01 "?" 10 7f 18 8001"#,
        );
        check(
            &Message::UnloggedReply(b"yes".into()),
            Dialect::Specpaxos,
            r#"18030520 2700000000000000 "specpaxos.vr.proto.UnloggedReplyMessage"
            0500000000000000 0a03 "yes""#,
        );
    }

    #[test]
    fn what_is_written_in_another_order_is_read_all_the_same() {
        let data = golden(r#"0a08 18 05 10 07 0a 02 "ab" 7a 01 "x""#);
        assert_eq!(Message::decode_in_place(Kind::Request, &data), None);
        let expected = Message::Request(request(b"ab", 7, 5));
        assert_eq!(Message::decode(Kind::Request, &data), Ok(expected));
    }

    #[test]
    fn a_field_that_is_missing_is_noticed() {
        for (kind, text) in [
            (Kind::Request, ""),
            (Kind::Request, "0a00"),
            (Kind::Request, "0a04 10 07 18 05"),
            (Kind::Request, "0a04 0a00 10 07"),
            (Kind::Reply, "08 00 10 01 1a 00"),
            (Kind::UnloggedReply, ""),
        ] {
            assert_eq!(Message::decode(kind, &golden(text)), Err(Garbled), "{text}");
        }
    }

    const KINDS: [Kind; 4] = [
        Kind::Request,
        Kind::Reply,
        Kind::UnloggedRequest,
        Kind::UnloggedReply,
    ];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_was_written_is_read_by_both_readers(
            op in proptest::collection::vec(any::<u8>(), 0..300),
            numbers: [u64; 3],
            shifts in [0u32..64, 0u32..64, 0u32..64],
            kind in 0usize..4,
        ) {
            let [view, one, two] = std::array::from_fn(|i| numbers[i] >> shifts[i]);
            let message = match KINDS[kind] {
                Kind::Request => Message::Request(request(&op, one, two)),
                Kind::UnloggedRequest => Message::UnloggedRequest(request(&op, one, two)),
                Kind::UnloggedReply => Message::UnloggedReply(op[..].into()),
                Kind::Reply => {
                    let result = op[..].into();
                    Message::Reply(Reply { view, op_number: one, result, number: two })
                }
            };
            let mut bytes = Vec::new();
            message.encode(Dialect::Electrode, &mut bytes);
            let decoded = frame::decode(&bytes, Dialect::Electrode);
            let Ok(Datagram::Whole(kind, data)) = decoded else { panic!("{decoded:?}") };
            let data = &bytes[data];
            prop_assert_eq!(Message::decode_any(kind, data), Ok(message.clone()));
            prop_assert_eq!(Message::decode_in_place(kind, data), Some(message));
        }

        /// The quick reader takes nothing that the judge does not take, and takes it alike.
        #[test]
        fn whatever_the_quick_reader_reads_the_judge_reads_alike(
            mut data in proptest::collection::vec(any::<u8>(), 0..40),
            at in proptest::collection::vec((0usize..40, any::<u8>()), 0..4),
            like_a_request: bool,
            kind in 0usize..4,
        ) {
            if like_a_request {
                data = golden(r#"0a16 0a08 "request0" 10 88ef99abc5e88c9111 18 01"#);
            }
            for (at, byte) in at {
                let len = data.len().max(1);
                if let Some(place) = data.get_mut(at % len) {
                    *place = byte;
                }
            }
            if let Some(quick) = Message::decode_in_place(KINDS[kind], &data) {
                prop_assert_eq!(Message::decode_any(KINDS[kind], &data), Ok(quick));
            }
        }
    }
}
