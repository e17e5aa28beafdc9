//! The protobuf messages, as `common/request.proto` and `vr/vr-proto.proto` declare them (proto2).
//!
//! Every field is required there. Here they are optional, so that one that is missing is noticed.

use prost::Message;

/// `specpaxos.Request` and `specpaxos.UnloggedRequest`: the same fields.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Request {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(super) op: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "2")]
    pub(super) clientid: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) clientreqid: Option<u64>,
}

/// `specpaxos.vr.proto.RequestMessage` and `UnloggedRequestMessage`.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RequestMessage {
    #[prost(message, optional, tag = "1")]
    pub(super) req: Option<Request>,
}

/// `specpaxos.vr.proto.ReplyMessage`.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ReplyMessage {
    #[prost(uint64, optional, tag = "1")]
    pub(super) view: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub(super) opnum: Option<u64>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(super) reply: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "4")]
    pub(super) clientreqid: Option<u64>,
}

/// `specpaxos.vr.proto.UnloggedReplyMessage`.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct UnloggedReplyMessage {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(super) reply: Option<Vec<u8>>,
}
