//! A group in a simulated world: test your own state machine, and let us test ours.
//!
//! A [`Cluster`] is replicas and clients, each on a node of one
//! [`World`], the very code that runs on io_uring. A [`Checker`]
//! watches from outside and panics when something does not hold that must. [`run_seed`] is a whole
//! run: a group, clients with a mixed workload, faults drawn from the seed, then a healed network
//! in which every call must be answered within a bound of virtual time.
//!
//! ```
//! use std::time::Duration;
//! use viewring::Null;
//! use viewring::cluster::{Cluster, ClusterConfig};
//!
//! let mut cluster = Cluster::new(7, ClusterConfig::new(3), || Null);
//! cluster.form();
//! let client = cluster.start_client(|client| async move {
//!     let mut session = client.session().await.expect("registered");
//!     session.call(b"anything").await.expect("answered");
//! });
//! let primary = cluster.primary().expect("there is one");
//! cluster.crash(primary);
//! let done = cluster.world.run_until(|world| !world.is_up(client), Duration::from_secs(5));
//! assert!(done.is_ok(), "the group goes on without its primary");
//! ```

mod adversary;
mod checker;
mod disks;
mod faults;
mod history;
mod linearizability;
mod plots;
mod reads;
mod run;
pub mod script;
mod sent;
mod sometimes;
mod stage;
mod targeted;
mod visitor;
mod walk_in;
mod workload;

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use viewring_protocol::{Checkpoint, Entry, Record, Replica, ReplicaId};
use viewring_runtime::net::UdpStats;
use viewring_runtime::sim::{Link, NodeId, Verdict, World};
use viewring_transport::specpaxos::{self, Dialect};
use viewring_transport::{Endpoint, EndpointConfig, Stats};

pub use self::checker::Checker;
use self::disks::{Disks, live};
pub use self::faults::Faults;
pub use self::history::{History, Pending};
pub use self::linearizability::{Act, Operation, Value, is_linearizable};
pub use self::plots::Plot;
pub use self::run::{Failure, Report, RunConfig, run_seed, run_seed_twice};
pub use self::script::{ScriptError, run_script, run_script_with};
pub use self::sometimes::{Mark, Marks};
pub use self::workload::{Book, Reads, Workload};
pub use crate::node::{Planted, WaitBug};

use crate::client::{Client, ClientConfig};
use crate::node::{Checkpoints, LeaseConfig, NodeConfig, Observer, Timeouts, WalkInConfig};
use crate::reads::ConfirmedBy;
use crate::state_machine::StateMachine;

/// How a simulated group is made.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// 1, 3, 5 or 7.
    pub replicas: u8,
    /// The replicas' timeouts.
    pub timeouts: Timeouts,
    /// How many operations may be in the log and not committed.
    pub window: u64,
    /// How long a client waits before it asks everybody.
    pub retry: Duration,
    /// How long a client waits before it says "unknown".
    pub deadline: Duration,
    /// How many bytes a datagram may carry.
    pub datagram_bytes: usize,
    /// How many clients may be registered.
    pub max_clients: u32,
    /// How many bytes a result may have.
    pub max_reply_bytes: u32,
    /// How many bytes all kept results may have together.
    pub max_kept_reply_bytes: u64,
    /// The layout of clients that never register, if they are served.
    pub walk_ins: Option<Dialect>,
    /// Who confirms the reads of one client, and of the next.
    pub confirmed_by: [ConfirmedBy; 2],
    /// Leases, if they are on.
    pub lease: Option<LeaseConfig>,
    /// How often the log is replaced by a checkpoint.
    pub checkpoints: Checkpoints,
    /// What every replica does wrong: for tests of tests.
    pub bug: Option<Planted>,
}

impl ClusterConfig {
    /// Defaults for so many replicas.
    pub fn new(replicas: u8) -> Self {
        Self {
            replicas,
            timeouts: Timeouts::default(),
            window: 1024,
            retry: Duration::from_millis(100),
            deadline: Duration::from_secs(2),
            datagram_bytes: EndpointConfig::DEFAULT_BUDGET,
            max_clients: 65_536,
            max_reply_bytes: 32 * 1024,
            max_kept_reply_bytes: 64 << 20,
            walk_ins: None,
            confirmed_by: [ConfirmedBy::Primary; 2],
            lease: None,
            checkpoints: Checkpoints::default(),
            bug: None,
        }
    }
}

/// A group in a world of its own.
pub struct Cluster {
    /// The world: its network, clocks and nodes. Do to it what you like.
    pub world: World,
    config: ClusterConfig,
    nodes: Vec<NodeId>,
    /// How many were started.
    clients: usize,
    addresses: Vec<SocketAddr>,
    checker: Rc<RefCell<Checker>>,
    disks: Rc<RefCell<Disks>>,
    start: Rc<Start>,
}

/// How a replica is started on its node.
type Start = dyn Fn(&mut World, NodeId, NodeConfig, Watch);

/// The name of every simulated group.
const CLUSTER: u64 = 1;
/// The directory of every simulated replica, on a disk of its own.
const DATA: &str = "/data";
/// The port of every simulated replica.
const PORT: u16 = 7000;
/// Its port for clients that never register.
const WALK_IN_PORT: u16 = 6000;

impl Cluster {
    /// A group whose replicas begin to look for each other when the world runs. `make` makes the
    /// state machine of each.
    ///
    /// # Panics
    /// When the configuration makes no group.
    pub fn new<S, F>(seed: u64, config: ClusterConfig, make: F) -> Self
    where
        S: StateMachine + 'static,
        F: Fn() -> S + 'static,
    {
        let mut world = World::new(seed);
        let nodes: Vec<NodeId> = (0..config.replicas).map(|_| world.add_node()).collect();
        let addresses = nodes
            .iter()
            .map(|&node| world.socket_addr(node, PORT))
            .collect();
        let checker = Rc::new(RefCell::new(Checker::new(config.replicas)));
        let (make, bug) = (Rc::new(make), config.bug);
        let disks = Rc::<RefCell<Disks>>::default();
        let known = Rc::clone(&disks);
        let start = move |world: &mut World, node: NodeId, config: NodeConfig, watch: Watch| {
            let (make, disks) = (Rc::clone(&make), Rc::clone(&known));
            world.start(node, move || async move {
                let (id, checker) = (config.id, Rc::clone(&watch.checker));
                let end = live(config, make(), watch, bug).await;
                disks.borrow_mut().has_ended(id, end, &checker);
            });
        };
        let mut cluster = Self {
            world,
            config,
            nodes,
            clients: 0,
            addresses,
            checker,
            disks,
            start: Rc::new(start),
        };
        cluster.listen();
        for id in cluster.replica_ids() {
            cluster.start_replica(id);
        }
        cluster
    }

    /// Shows the checker what the replicas say. The first rule: it sees what others then change.
    fn listen(&mut self) {
        let (checker, replicas) = (Rc::clone(&self.checker), usize::from(self.config.replicas));
        let rule = self.world.rule(move |packet| {
            let from = packet.from_node().index();
            if from < replicas {
                let from = ReplicaId(u8::try_from(from).expect("a group is small"));
                checker.borrow_mut().sent(from, packet.payload());
            }
            Verdict::Deliver
        });
        rule.forget();
    }

    /// Runs until every replica is a member of the group.
    ///
    /// # Panics
    /// When that takes more than ten seconds of virtual time.
    pub fn form(&mut self) {
        let checker = Rc::clone(&self.checker);
        let ids: Vec<ReplicaId> = self.replica_ids().collect();
        let formed = self.world.run_until(
            |_| checker.borrow().are_members(ids.iter().copied()),
            Duration::from_secs(10),
        );
        assert!(
            formed.is_ok(),
            "the group has not formed, at {:?}:\n{}",
            self.world.now(),
            checker.borrow().table()
        );
    }

    fn start_replica(&mut self, id: ReplicaId) {
        self.disks.borrow_mut().begins(id);
        let config = NodeConfig {
            timeouts: self.config.timeouts,
            window: self.config.window,
            checkpoints: self.config.checkpoints,
            datagram_bytes: self.config.datagram_bytes,
            max_clients: self.config.max_clients,
            max_reply_bytes: self.config.max_reply_bytes,
            max_kept_reply_bytes: self.config.max_kept_reply_bytes,
            walk_ins: self.config.walk_ins.map(|dialect| WalkInConfig {
                addr: self.world.socket_addr(self.node(id), WALK_IN_PORT),
                multicast: None,
                dialect,
            }),
            lease: self.config.lease,
            data: Some(DATA.into()),
            ..NodeConfig::new(CLUSTER, id, self.addresses.clone())
        };
        let watch = Watch {
            checker: Rc::clone(&self.checker),
            socket: UdpStats::default(),
            frames: Stats::default(),
        };
        let start = Rc::clone(&self.start);
        start(
            &mut self.world,
            self.nodes[usize::from(id.0)],
            config,
            watch,
        );
    }

    /// Starts a node that runs `program` with a client of the group.
    pub fn start_client<P, F>(&mut self, program: P) -> NodeId
    where
        P: FnOnce(Client) -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        let node = self.world.add_node();
        let bug = self.config.bug;
        self.clients += 1;
        let config = ClientConfig {
            retry: self.config.retry,
            deadline: self.config.deadline,
            confirmed_by: self.config.confirmed_by[self.clients % 2],
            datagram_bytes: self.config.datagram_bytes,
            ..ClientConfig::new(CLUSTER, self.addresses.clone())
        };
        self.world.start(node, move || async move {
            let client = Client::new(config).expect("a simulated port is free");
            bug.into_iter().for_each(|bug| client.plant(bug));
            program(client).await;
        });
        node
    }

    /// Starts a node that runs `program` with a client that never registers.
    ///
    /// # Panics
    /// When the configuration does not say that such clients are served.
    pub fn start_walk_in<P, F>(&mut self, program: P) -> NodeId
    where
        P: FnOnce(specpaxos::Client) -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        let dialect = self.config.walk_ins.expect("they are served");
        let at = |&node: &NodeId| self.world.socket_addr(node, WALK_IN_PORT);
        let replicas: Vec<SocketAddr> = self.nodes.iter().map(at).collect();
        let node = self.world.add_node();
        self.world.start(node, move || async move {
            let client = specpaxos::Client::bind(replicas, dialect);
            program(client.expect("a simulated port is free")).await;
        });
        node
    }

    /// Turns the knobs of all links. Datagrams of clients that never register have no checksum
    /// but UDP's, which finds flipped bits: where such clients are served none are flipped.
    pub(crate) fn set_links(&mut self, link: &Link) {
        let spared = self.config.walk_ins.is_some();
        self.world.update_links(|knobs| {
            *knobs = link.clone();
            if spared {
                knobs.bit_flips = 0.0;
            }
        });
    }

    /// Stops a replica, with all that it remembers but its view file.
    pub fn crash(&mut self, id: ReplicaId) {
        self.world.crash(self.node(id));
    }

    /// Starts a replica that was stopped. It remembers what is in its view file, and nothing else.
    pub fn restart(&mut self, id: ReplicaId) {
        self.checker.borrow_mut().restarted(id);
        self.start_replica(id);
    }

    /// Gives a replica that was stopped an empty disk: it will remember nothing at all.
    pub fn wipe(&mut self, id: ReplicaId) {
        self.world.replace_disk(self.node(id));
        self.checker.borrow_mut().wiped(id);
    }

    /// Stops all replicas at once, and starts them as another group, which knows nothing of this
    /// one. What was acknowledged is gone.
    pub fn begin_again(&mut self) {
        for id in self.replica_ids() {
            self.crash(id);
            self.wipe(id);
        }
        self.checker.borrow_mut().forget();
        for id in self.replica_ids() {
            self.start_replica(id);
        }
    }

    /// The replica's node in the world.
    pub fn node(&self, id: ReplicaId) -> NodeId {
        self.nodes[usize::from(id.0)]
    }

    /// All replicas.
    pub fn replica_ids(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        (0..self.config.replicas).map(ReplicaId)
    }

    /// How many replicas there are.
    pub fn replicas(&self) -> u8 {
        self.config.replicas
    }

    /// The primary of the latest view that has begun.
    pub fn primary(&self) -> Option<ReplicaId> {
        self.checker.borrow().primary()
    }

    /// The one who watches.
    pub fn checker(&self) -> &Rc<RefCell<Checker>> {
        &self.checker
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("world", &self.world)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Reports one life of a replica to the checker.
struct Watch {
    checker: Rc<RefCell<Checker>>,
    socket: UdpStats,
    frames: Stats,
}

impl Observer for Watch {
    fn turned(&mut self, replica: &Replica, endpoint: &Endpoint) {
        let mut checker = self.checker.borrow_mut();
        checker.turned(replica);
        let (socket, frames) = (endpoint.socket().stats(), endpoint.stats());
        let (old_socket, old) = (self.socket, self.frames);
        let ended = |s: UdpStats| s.ended_empty + s.ended_overflow + s.ended_error;
        let marks = &mut checker.marks;
        marks.add(
            Mark::ReceiveStarved,
            socket.ended_no_buffers - old_socket.ended_no_buffers,
        );
        marks.add(Mark::ReceiveEnded, ended(socket) - ended(old_socket));
        marks.add(
            Mark::FrameGarbled,
            frames.datagram_checksum - old.datagram_checksum,
        );
        marks.add(
            Mark::MessageReassembled,
            frames.messages_reassembled - old.messages_reassembled,
        );
        marks.add(
            Mark::FragmentLost,
            frames.reassembly_expired - old.reassembly_expired,
        );
        (self.socket, self.frames) = (socket, frames);
    }

    fn applied(&mut self, replica: &Replica, entry: &Entry, result: &[u8]) {
        self.checker.borrow_mut().applied(replica, entry, result);
    }

    fn checkpointed(&mut self, replica: &Replica, checkpoint: &Checkpoint) {
        self.checker.borrow_mut().checkpointed(replica, checkpoint);
    }

    fn restored(&mut self, replica: &Replica) {
        self.checker.borrow_mut().restored(replica);
    }

    fn remembered(&mut self, replica: &Replica, record: &Record) {
        self.checker.borrow_mut().remembered(replica.id(), record);
    }
}
