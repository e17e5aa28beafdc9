//! The network between the nodes: addresses, packets in flight, and what becomes of them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use slab::Slab;

use super::NodeId;
use super::link::{Link, LinkState};
use super::random::Random;
use super::rule::{Packet, Rules, Verdict};
use super::timeline::{Happening, Timeline};
use super::trace::{DropReason, Event, EventKind};

/// What the network did, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetworkStats {
    /// Packets that nodes sent.
    pub sent: u64,
    /// Copies that reached a socket.
    pub delivered: u64,
    /// Copies that did not, for whatever reason.
    pub dropped: u64,
    /// Second copies.
    pub duplicated: u64,
    /// Packets of which bits were flipped.
    pub bits_flipped: u64,
    /// Packets whose end was cut off.
    pub truncated: u64,
    /// Packets that a rule held back.
    pub held: u64,
    /// Senders that heard that nobody was there.
    pub refused: u64,
}

#[derive(Debug)]
pub(super) struct Network {
    hosts: Vec<Host>,
    by_address: BTreeMap<Ipv4Addr, NodeId>,
    /// By sender, then by receiver.
    links: Vec<Vec<LinkState>>,
    /// What new links are like.
    knobs: Link,
    packets: Slab<Packet>,
    /// What rules hold back, in the order of sending.
    held: Vec<Packet>,
    pub(super) rules: Rules,
    /// Payloads of packets that are gone, kept for their capacity.
    spare: Vec<Vec<u8>>,
    numbers: u64,
    pub(super) stats: NetworkStats,
    random: Random,
}

#[derive(Debug)]
struct Host {
    address: Ipv4Addr,
    deaf: bool,
    mute: bool,
}

impl Network {
    pub(super) fn new(random: Random) -> Self {
        Self {
            hosts: Vec::new(),
            by_address: BTreeMap::new(),
            links: Vec::new(),
            knobs: Link::default(),
            packets: Slab::new(),
            held: Vec::new(),
            rules: Rules::default(),
            spare: Vec::new(),
            numbers: 0,
            stats: NetworkStats::default(),
            random,
        }
    }

    pub(super) fn add_host(&mut self, node: NodeId, address: Ipv4Addr) {
        assert!(
            !address.is_loopback() && !address.is_unspecified(),
            "{address} cannot be the address of a node"
        );
        let other = self.by_address.insert(address, node);
        assert!(other.is_none(), "another node has the address {address}");
        self.hosts.push(Host {
            address,
            deaf: false,
            mute: false,
        });
        for index in 0..node.index() {
            let other = NodeId::new(index);
            let link = self.new_link(other, node);
            self.links[index].push(link);
        }
        let links = (0..=node.index()).map(|to| self.new_link(node, NodeId::new(to)));
        let links = links.collect();
        self.links.push(links);
    }

    fn new_link(&self, from: NodeId, to: NodeId) -> LinkState {
        let label = (from.index() as u64) << 32 | to.index() as u64;
        let knobs = if from == to {
            Link::loopback()
        } else {
            self.knobs.clone()
        };
        LinkState::new(knobs, &self.random.fork(label))
    }

    pub(super) fn address(&self, node: NodeId) -> Ipv4Addr {
        self.hosts[node.index()].address
    }

    pub(super) fn link_mut(&mut self, from: NodeId, to: NodeId) -> &mut LinkState {
        &mut self.links[from.index()][to.index()]
    }

    pub(super) fn link(&self, from: NodeId, to: NodeId) -> &LinkState {
        &self.links[from.index()][to.index()]
    }

    /// Changes every link between two nodes, and those that are still to come.
    pub(super) fn update_links(&mut self, mut update: impl FnMut(&mut Link)) {
        update(&mut self.knobs);
        for (from, links) in self.links.iter_mut().enumerate() {
            for (to, link) in links.iter_mut().enumerate() {
                if from != to {
                    update(&mut link.knobs);
                }
            }
        }
    }

    pub(super) fn heal_all(&mut self) {
        let links = self.links.iter_mut().flatten();
        links.for_each(|link| link.cut = false);
        for host in &mut self.hosts {
            (host.deaf, host.mute) = (false, false);
        }
    }

    pub(super) fn set_deaf(&mut self, node: NodeId, deaf: bool) {
        self.hosts[node.index()].deaf = deaf;
    }

    pub(super) fn set_mute(&mut self, node: NodeId, mute: bool) {
        self.hosts[node.index()].mute = mute;
    }

    pub(super) fn held(&self) -> &[Packet] {
        &self.held
    }

    /// Takes a packet from a node.
    pub(super) fn send(
        &mut self,
        timeline: &mut Timeline,
        from_node: NodeId,
        (from, to): (SocketAddrV4, SocketAddrV4),
        bytes: &[u8],
    ) {
        self.numbers += 1;
        self.stats.sent += 1;
        let mut payload = self.spare.pop().unwrap_or_default();
        payload.clear();
        payload.extend_from_slice(bytes);
        let packet = Packet {
            number: self.numbers,
            from_node,
            to_node: self.node_of(from_node, *to.ip()),
            from,
            to,
            sent_at: timeline.now(),
            fills_link: false,
            payload,
        };
        timeline.trace.absorb_addresses(from, to);
        timeline.trace.absorb_bytes(bytes);
        timeline.record(line(&packet, EventKind::Send));
        self.judge(timeline, packet);
    }

    fn judge(&mut self, timeline: &mut Timeline, mut packet: Packet) {
        match self.rules.judge(&packet) {
            Verdict::Deliver => self.transmit(timeline, packet, Duration::ZERO),
            Verdict::Drop => self.drop_packet(timeline, packet, DropReason::Rule),
            Verdict::Delay(extra) => self.transmit(timeline, packet, extra),
            Verdict::Duplicate(extra) => {
                self.duplicate(timeline, &packet, extra);
                self.transmit(timeline, packet, Duration::ZERO);
            }
            Verdict::Hold => {
                self.stats.held += 1;
                timeline.record(line(&packet, EventKind::Hold));
                self.held.push(packet);
            }
            Verdict::Replace(payload) => {
                timeline.trace.absorb_bytes(&payload);
                packet.payload = payload;
                self.transmit(timeline, packet, Duration::ZERO);
            }
            Verdict::Redirect(to) => {
                packet.to = to;
                packet.to_node = self.node_of(packet.from_node, *to.ip());
                self.transmit(timeline, packet, Duration::ZERO);
            }
        }
    }

    /// Lets held packets go on, those that `which` picks. Says how many.
    pub(super) fn release(
        &mut self,
        timeline: &mut Timeline,
        mut which: impl FnMut(&Packet) -> bool,
    ) -> usize {
        let (released, held): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|packet| which(packet));
        self.held = held;
        let count = released.len();
        for packet in released {
            timeline.record(line(&packet, EventKind::Release));
            self.transmit(timeline, packet, Duration::ZERO);
        }
        count
    }

    /// Who has this address, as `from` sees it.
    fn node_of(&self, from: NodeId, address: Ipv4Addr) -> Option<NodeId> {
        if address.is_loopback() {
            return Some(from);
        }
        self.by_address.get(&address).copied()
    }

    /// The link's own faults, and off it goes.
    fn transmit(&mut self, timeline: &mut Timeline, mut packet: Packet, extra: Duration) {
        let from = packet.from_node;
        let Some(to) = packet.to_node else {
            return self.drop_packet(timeline, packet, DropReason::NoNode);
        };
        if from != to && self.hosts[from.index()].mute {
            return self.drop_packet(timeline, packet, DropReason::Mute);
        }
        let link = &mut self.links[from.index()][to.index()];
        if link.cut {
            return self.drop_packet(timeline, packet, DropReason::Cut);
        }
        if link.loses() {
            return self.drop_packet(timeline, packet, DropReason::Loss);
        }
        if link.in_flight >= link.knobs.capacity {
            return self.drop_packet(timeline, packet, DropReason::Capacity);
        }
        if link.flips_bits(&mut packet.payload) {
            self.stats.bits_flipped += 1;
            timeline.trace.absorb_bytes(&packet.payload);
            timeline.record(line(&packet, EventKind::BitFlip));
        }
        if link.truncates(&mut packet.payload) {
            self.stats.truncated += 1;
            timeline.record(line(&packet, EventKind::Truncate));
        }
        let again = link.duplicates();
        if let Some(extra) = again {
            self.duplicate(timeline, &packet, extra);
        }
        self.launch(timeline, packet, to, extra);
    }

    fn duplicate(&mut self, timeline: &mut Timeline, packet: &Packet, extra: Duration) {
        let Some(to) = packet.to_node else { return };
        self.stats.duplicated += 1;
        timeline.record(line(packet, EventKind::Duplicate));
        self.launch(timeline, packet.clone(), to, extra);
    }

    fn launch(&mut self, timeline: &mut Timeline, packet: Packet, to: NodeId, extra: Duration) {
        let link = &mut self.links[packet.from_node.index()][to.index()];
        // What is held up somewhere does not fill the link.
        let packet = Packet {
            fills_link: extra.is_zero(),
            ..packet
        };
        link.in_flight += usize::from(packet.fills_link);
        let arrival = link.arrival(timeline.now(), extra);
        let packet = self.packets.insert(packet);
        timeline.at(arrival, Happening::Arrive { packet });
    }

    /// Takes a packet off the wire; `None` if it does not come through.
    pub(super) fn arrive(&mut self, timeline: &mut Timeline, packet: usize) -> Option<Packet> {
        let packet = self.packets.remove(packet);
        let (from, to) = (packet.from_node, packet.to_node?);
        let link = &mut self.links[from.index()][to.index()];
        link.in_flight -= usize::from(packet.fills_link);
        if link.cut {
            self.drop_packet(timeline, packet, DropReason::Cut);
            return None;
        }
        if from != to && self.hosts[to.index()].deaf {
            self.drop_packet(timeline, packet, DropReason::Deaf);
            return None;
        }
        Some(packet)
    }

    /// How long the news takes that `packet` was refused; `None` if they get lost.
    pub(super) fn refusal(&mut self, timeline: &Timeline, packet: &Packet) -> Option<Duration> {
        let (back_from, back_to) = (packet.to_node?, packet.from_node);
        if back_from != back_to
            && (self.hosts[back_from.index()].mute || self.hosts[back_to.index()].deaf)
        {
            return None;
        }
        let link = self.link_mut(back_from, back_to);
        if link.cut || link.loses() {
            return None;
        }
        let now = timeline.now();
        Some(link.arrival(now, Duration::ZERO) - now)
    }

    pub(super) fn drop_packet(
        &mut self,
        timeline: &mut Timeline,
        packet: Packet,
        reason: DropReason,
    ) {
        self.stats.dropped += 1;
        timeline.record(line(&packet, EventKind::Drop(reason)));
        self.recycle(packet.payload);
    }

    /// Keeps a payload for its capacity.
    pub(super) fn recycle(&mut self, payload: Vec<u8>) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(payload);
        }
    }
}

/// The line of the trace for a packet: to whom it happens depends on the event.
pub(super) fn line(packet: &Packet, kind: EventKind) -> Event {
    let node = if kind == EventKind::Deliver {
        packet.to_node
    } else {
        Some(packet.from_node)
    };
    Event {
        node,
        from: Some(packet.from),
        to: Some(packet.to),
        size: packet.payload.len(),
        ..Event::world(kind).number(packet.number)
    }
}

const SPARE_MAX: usize = 1024;
