//! One datagram: a magic number, the name of a message type, the message. `SPECPAXOS.md` has the
//! picture.

use std::ops::Range;

use crate::frame::{u32_at, u64_at};

/// Which of the two layouts a group and its clients use. They do not understand each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// As specpaxos sends.
    #[default]
    Specpaxos,
    /// As Electrode sends: twelve bytes more between the name and the message, for programs in
    /// the kernel; zero in what clients send and are sent.
    Electrode,
}

impl Dialect {
    /// Bytes between the name and the length of the message.
    fn pad(self) -> usize {
        match self {
            Self::Specpaxos => 0,
            Self::Electrode => PAD.len(),
        }
    }
}

/// A message that clients and replicas exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client has an operation executed.
    Request,
    /// Its result.
    Reply,
    /// A client asks one replica, past the log.
    UnloggedRequest,
    /// What that replica answers.
    UnloggedReply,
}

impl Kind {
    /// The name of its protobuf message.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "specpaxos.vr.proto.RequestMessage",
            Self::Reply => "specpaxos.vr.proto.ReplyMessage",
            Self::UnloggedRequest => "specpaxos.vr.proto.UnloggedRequestMessage",
            Self::UnloggedReply => "specpaxos.vr.proto.UnloggedReplyMessage",
        }
    }

    /// The kind of this name. The lengths differ: at most one string is compared.
    fn of(name: &[u8]) -> Result<Self, FrameError> {
        const KINDS: [Kind; 4] = [
            Kind::Request,
            Kind::Reply,
            Kind::UnloggedRequest,
            Kind::UnloggedReply,
        ];
        let known = KINDS.iter().find(|kind| kind.name().as_bytes() == name);
        known.copied().ok_or_else(|| {
            let is_replicas = REPLICAS_NAMES.iter().any(|known| known.as_bytes() == name);
            if is_replicas {
                FrameError::Replicas
            } else {
                FrameError::Name
            }
        })
    }
}

/// What a datagram is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Datagram {
    /// A message: where its protobuf is.
    Whole(Kind, Range<usize>),
    /// A slice of one, behind the magic number.
    Fragment,
}

/// Why a datagram is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// It ends before what every datagram has.
    Short,
    Magic,
    /// The name would end beyond the datagram.
    NameLength,
    /// No message has this name.
    Name,
    /// The message is one that replicas send each other.
    Replicas,
    /// The message would end beyond the datagram.
    DataLength,
}

/// Reads a datagram. Bytes behind the message are ignored, as the original does.
pub(crate) fn decode(bytes: &[u8], dialect: Dialect) -> Result<Datagram, FrameError> {
    if bytes.len() < MAGIC_LEN {
        return Err(FrameError::Short);
    }
    match u32_at(bytes, 0) {
        MAGIC => {
            let (kind, data) = decode_body(&bytes[MAGIC_LEN..], dialect)?;
            let data = data.start + MAGIC_LEN..data.end + MAGIC_LEN;
            Ok(Datagram::Whole(kind, data))
        }
        FRAGMENT_MAGIC => Ok(Datagram::Fragment),
        _ => Err(FrameError::Magic),
    }
}

/// Reads what follows the magic number, or what fragments were put together to: which message,
/// and where its protobuf is.
pub(crate) fn decode_body(
    body: &[u8],
    dialect: Dialect,
) -> Result<(Kind, Range<usize>), FrameError> {
    let (name, at) = counted(body, 0, FrameError::NameLength)?;
    let kind = Kind::of(&body[name])?;
    let (data, _trailing) = counted(body, at + dialect.pad(), FrameError::DataLength)?;
    Ok((kind, data))
}

/// Where the bytes are that the length at `at` counts, and where they end.
fn counted(
    body: &[u8],
    at: usize,
    beyond: FrameError,
) -> Result<(Range<usize>, usize), FrameError> {
    let start = at + LENGTH_LEN;
    if body.len() < start {
        return Err(FrameError::Short);
    }
    // A length may be anything up to 2^64: compared before it is added to.
    let len = usize::try_from(u64_at(body, at)).map_err(|_| beyond)?;
    if len > body.len() - start {
        return Err(beyond);
    }
    Ok((start..start + len, start + len))
}

/// Appends the datagram's head: all that is before a message of `data_len` bytes.
pub(crate) fn encode_head(kind: Kind, dialect: Dialect, data_len: usize, out: &mut Vec<u8>) {
    let name = kind.name().as_bytes();
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&(name.len() as u64).to_le_bytes());
    out.extend_from_slice(name);
    out.extend_from_slice(&PAD[..dialect.pad()]);
    out.extend_from_slice(&(data_len as u64).to_le_bytes());
}

/// Before a message.
const MAGIC: u32 = 0x2005_0318;
/// Before a slice of one.
pub(crate) const FRAGMENT_MAGIC: u32 = 0x2010_1010;
pub(crate) const MAGIC_LEN: usize = 4;
/// Lengths are a machine word of the sender's.
const LENGTH_LEN: usize = 8;
/// Electrode's three numbers: zero in all that is not between replicas.
const PAD: [u8; 12] = [0; 12];

/// What specpaxos' and Electrode's replicas say to each other.
const REPLICAS_NAMES: [&str; 11] = [
    "specpaxos.vr.proto.PrepareMessage",
    "specpaxos.vr.proto.PrepareOKMessage",
    "specpaxos.vr.proto.CommitMessage",
    "specpaxos.vr.proto.RequestStateTransferMessage",
    "specpaxos.vr.proto.StateTransferMessage",
    "specpaxos.vr.proto.StartViewChangeMessage",
    "specpaxos.vr.proto.DoViewChangeMessage",
    "specpaxos.vr.proto.StartViewMessage",
    "specpaxos.vr.proto.RecoveryMessage",
    "specpaxos.vr.proto.RecoveryResponseMessage",
    "specpaxos.vr.MyPrepareOK",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(name: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x18\x03\x05\x20".to_vec();
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        bytes.extend(data);
        bytes
    }

    fn fault(bytes: &[u8]) -> FrameError {
        decode(bytes, Dialect::Specpaxos).expect_err("it is wrong")
    }

    #[test]
    fn names_are_as_long_as_written_down() {
        let kinds = [
            Kind::Request,
            Kind::Reply,
            Kind::UnloggedRequest,
            Kind::UnloggedReply,
        ];
        assert_eq!(kinds.map(|kind| kind.name().len()), [33, 31, 41, 39]);
        assert_eq!(
            REPLICAS_NAMES.map(str::len),
            [33, 35, 32, 46, 39, 41, 38, 35, 34, 42, 24]
        );
    }

    #[test]
    fn each_fault_of_a_datagram_has_its_own_name() {
        let good = datagram(Kind::Request.name(), b"data");
        assert_eq!(
            decode(&good, Dialect::Specpaxos),
            Ok(Datagram::Whole(Kind::Request, 53..57))
        );
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            bad
        };
        assert_eq!(fault(b""), FrameError::Short);
        assert_eq!(fault(&good[..3]), FrameError::Short);
        assert_eq!(fault(&good[..11]), FrameError::Short);
        assert_eq!(fault(&good[..52]), FrameError::Short);
        assert_eq!(fault(&good[..56]), FrameError::DataLength);
        assert_eq!(fault(&with(0, 0)), FrameError::Magic);
        assert_eq!(fault(&with(4, 200)), FrameError::NameLength);
        assert_eq!(fault(&with(11, 0x80)), FrameError::NameLength);
        assert_eq!(fault(&with(12, b'S')), FrameError::Name);
        assert_eq!(fault(&with(4, 32)), FrameError::Name);
        assert_eq!(fault(&with(45, 5)), FrameError::DataLength);
        assert_eq!(fault(&with(52, 0xFF)), FrameError::DataLength);
        for name in REPLICAS_NAMES {
            assert_eq!(fault(&datagram(name, b"")), FrameError::Replicas);
        }
        assert_eq!(fault(&datagram("", b"")), FrameError::Name);
    }

    #[test]
    fn bytes_behind_the_message_are_ignored() {
        let mut bytes = datagram(Kind::Reply.name(), b"data");
        bytes.extend([0; 9]);
        assert_eq!(
            decode(&bytes, Dialect::Specpaxos),
            Ok(Datagram::Whole(Kind::Reply, 51..55))
        );
    }
}
