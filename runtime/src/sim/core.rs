//! All of a world but its runtimes: what the reactors of the nodes share.
//!
//! **Borrow rule.** The reactors reach it through one `RefCell`. It is not borrowed while anything
//! of a user runs: a task is polled, a future, a buffer or a socket is dropped. Rules are the
//! exception: they are called while it is borrowed, and have no way back.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};

use super::NodeId;
use super::network::{Network, line};
use super::node::{Node, Phase, Released};
use super::operations::Held;
use super::random::Random;
use super::rule::Packet;
use super::socket::Queued;
use super::timeline::{Happening, Life, Timeline};
use super::trace::{DropReason, Event, EventKind};
use crate::buf::{BufPool, SharedBuf};
use crate::net::UdpOptions;
use crate::reactor::{Completion, OpKey, Outcome, SocketId, Wait};
use crate::time::Instant;

#[derive(Debug)]
pub(super) struct Core {
    pub(super) timeline: Timeline,
    pub(super) network: Network,
    pub(super) nodes: Vec<Node>,
}

impl Core {
    pub(super) fn new(network: Random) -> Self {
        Self {
            timeline: Timeline::new(),
            network: Network::new(network),
            nodes: Vec::new(),
        }
    }

    pub(super) fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    pub(super) fn local_time(&self, id: NodeId) -> Instant {
        self.nodes[id.index()].clock.local(self.timeline.now())
    }

    pub(super) fn record(&mut self, event: Event) {
        self.timeline.record(event);
    }

    /// Lets everything happen that is due now.
    pub(super) fn happen(&mut self) {
        while let Some(happening) = self.timeline.take_due() {
            match happening {
                Happening::Arrive { packet } => {
                    if let Some(packet) = self.network.arrive(&mut self.timeline, packet) {
                        self.deliver(packet);
                    }
                }
                Happening::Refuse { life, from, peer } => {
                    if let Some(node) = self.living(life)
                        && let Some(waiting) = node.sockets.refuse(from, peer)
                    {
                        node.work |= waiting;
                        self.network.stats.refused += 1;
                        self.record(Event::of(life.node, EventKind::Refuse));
                    }
                }
                Happening::Submit { life, key } => {
                    if self.living(life).is_some() {
                        self.submit(life.node, key);
                    }
                }
                Happening::Cancel { life, key } => {
                    if self.living(life).is_some() {
                        self.nodes[life.node.index()].end_cancelled(&mut self.timeline, key);
                    }
                }
                Happening::Disk { life } => {
                    if self.living(life).is_some() {
                        self.nodes[life.node.index()].serve_disk(&mut self.timeline);
                    }
                }
                Happening::Wake { life } => {
                    if let Some(node) = self.living(life) {
                        node.work = true;
                    }
                }
            }
        }
    }

    /// The node, if it still lives this life.
    fn living(&mut self, life: Life) -> Option<&mut Node> {
        let node = &mut self.nodes[life.node.index()];
        (node.life == life).then_some(node)
    }

    /// Gives a packet that came through to the socket that it is for.
    fn deliver(&mut self, packet: Packet) {
        let Some(to) = packet.to_node else { return };
        let (timeline, network) = (&mut self.timeline, &mut self.network);
        let node = &mut self.nodes[to.index()];
        if node.phase == Phase::Down {
            return network.drop_packet(timeline, packet, DropReason::Down);
        }
        let Some(index) = node.sockets.receiver(packet.from, packet.to) else {
            let delay = network.refusal(timeline, &packet);
            let sender = self.nodes[packet.from_node.index()].life;
            if let Some(delay) = delay {
                let refuse = Happening::Refuse {
                    life: sender,
                    from: packet.from,
                    peer: packet.to,
                };
                timeline.after(delay, refuse);
            }
            return network.drop_packet(timeline, packet, DropReason::NoSocket);
        };
        let socket = &mut node.sockets.slab[index];
        let event = line(&packet, EventKind::Deliver);
        let (from, payload) = (packet.from, packet.payload);
        match socket.push(Queued { from, payload }) {
            Ok(()) => {
                node.work |= socket.armed.is_some();
                network.stats.delivered += 1;
                timeline.record(event);
            }
            Err(refused) => {
                network.stats.dropped += 1;
                network.recycle(refused.payload);
                timeline.record(Event {
                    kind: EventKind::Drop(DropReason::SocketFull),
                    ..event
                });
            }
        }
    }

    /// What an operation does when it reaches the kernel.
    fn submit(&mut self, id: NodeId, key: OpKey) {
        let node = &mut self.nodes[id.index()];
        let (timeline, network) = (&mut self.timeline, &mut self.network);
        let result = match node.ops.held(key) {
            None => return, // it was cancelled before
            Some(Held::Nothing | Held::Nop) => Ok(Outcome::Done),
            Some(Held::Signal) => {
                if !node.asked_to_stop {
                    return;
                }
                Ok(Outcome::Done)
            }
            Some(Held::File(_)) => {
                node.counters.submitted += 1;
                return node.submit_file(timeline, key);
            }
            Some(Held::Receive { socket }) => {
                let socket = node.sockets.get(*socket);
                socket.armed = Some(key);
                node.work |= socket.has_news();
                return;
            }
            Some(Held::Send {
                socket,
                to,
                payload,
                segment,
            }) => {
                let route = node.sockets.route(*socket, *to, *segment);
                let route = match node.ring.send_fails() {
                    Some(error) => {
                        timeline.record(Event::of(id, EventKind::SendError));
                        Err(error)
                    }
                    None => route,
                };
                let sent = route.map(|route| send(network, timeline, id, route, payload, *segment));
                sent.map_err(io::Error::from_raw_os_error)
            }
        };
        node.counters.submitted += 1;
        node.end(key, result);
    }

    /// A node's trip to its reactor.
    pub(super) fn turn(
        &mut self,
        id: NodeId,
        wait: Wait,
        out: &mut Vec<Completion>,
        released: &mut Released,
    ) {
        self.node(id).counters.turns += 1;
        if self.node(id).phase == Phase::Crashing {
            self.node(id).ops.started.clear();
        }
        while let Some(key) = self.node(id).ops.started.pop_front() {
            if !self.delay_submission(id, key) {
                self.submit(id, key);
            }
        }
        self.cancel_asked(id);
        let node = &mut self.nodes[id.index()];
        if node.is_leaving() {
            node.end_all(&mut self.timeline);
        }
        node.reap(&mut self.timeline, out, released);
        // What was reaped wakes tasks, and they count more than this.
        node.park(wait);
        for payload in node.spent.drain(..) {
            self.network.recycle(payload);
        }
    }

    fn delay_submission(&mut self, id: NodeId, key: OpKey) -> bool {
        let node = &mut self.nodes[id.index()];
        if node.is_leaving() {
            return false;
        }
        let Some(late) = node.ring.submits_late() else {
            return false;
        };
        node.counters.delayed += 1;
        let life = node.life;
        self.timeline.after(late, Happening::Submit { life, key });
        self.record(Event::of(id, EventKind::DelaySubmission));
        true
    }

    fn cancel_asked(&mut self, id: NodeId) {
        while let Some(key) = self.node(id).ops.cancelled.pop_front() {
            let node = &mut self.nodes[id.index()];
            node.counters.cancels += 1;
            if node.ops.held(key).is_none() {
                continue;
            }
            let late = if node.is_leaving() {
                None
            } else {
                node.ring.cancels_late()
            };
            let Some(late) = late else {
                node.end_cancelled(&mut self.timeline, key);
                continue;
            };
            let life = node.life;
            self.timeline.after(late, Happening::Cancel { life, key });
            self.record(Event::of(id, EventKind::LateCancel));
        }
    }

    pub(super) fn bind(
        &mut self,
        id: NodeId,
        addr: SocketAddr,
        options: &UdpOptions,
        pool: &BufPool,
    ) -> io::Result<(SocketId, SocketAddr)> {
        let node = self.node(id);
        if node.is_leaving() {
            return Err(io::Error::other("the node is shutting down"));
        }
        node.sockets.bind(addr, options, pool)
    }

    /// Tells the node's process to stop. False if nobody in it listens: then it ends.
    pub(super) fn signal(&mut self, id: NodeId) -> bool {
        self.record(Event::of(id, EventKind::Signal));
        let node = self.node(id);
        let waiting = node.ops.keys(|held| matches!(held, Held::Signal));
        if waiting.is_empty() || node.asked_to_stop {
            return false;
        }
        node.asked_to_stop = true;
        for key in waiting {
            node.end(key, Ok(Outcome::Done));
        }
        true
    }
}

fn send(
    network: &mut Network,
    timeline: &mut Timeline,
    node: NodeId,
    route: (SocketAddrV4, SocketAddrV4),
    payload: &SharedBuf,
    segment: usize,
) -> Outcome {
    // One of no bytes is a datagram, too.
    let (first, mut rest) = payload.split_at(payload.len().min(segment));
    network.send(timeline, node, route, first);
    while !rest.is_empty() {
        let (next, behind) = rest.split_at(rest.len().min(segment));
        network.send(timeline, node, route, next);
        rest = behind;
    }
    Outcome::Bytes(payload.len())
}
