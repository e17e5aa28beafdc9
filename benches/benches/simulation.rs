//! How fast is simulated time? A group of three, four clients with a hundred requests a second
//! each, on one core: virtual seconds per second.
//!
//! Plain, since one number is wanted: `cargo bench -p viewring-benches --bench simulation`.

use std::time::{Duration, Instant};

use viewring::cluster::{Cluster, ClusterConfig};
use viewring::kv::{Kv, Operation};
use viewring_runtime::time::sleep;

const REPLICAS: u8 = 3;
const CLIENTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(10);
const VIRTUAL: Duration = Duration::from_secs(60);
const ROUNDS: u64 = 5;

fn main() {
    // The arguments of cargo's own benchmarks: there is one thing to run.
    let mut speeds: Vec<f64> = (0..ROUNDS).map(round).collect();
    speeds.sort_by(f64::total_cmp);
    let requests = CLIENTS as f64 / PAUSE.as_secs_f64();
    println!(
        "{REPLICAS} replicas, {CLIENTS} clients, {requests:.0} requests a second: {:.0} virtual \
         seconds a second (from {:.0} to {:.0})",
        speeds[speeds.len() / 2],
        speeds[0],
        speeds[speeds.len() - 1]
    );
}

/// Virtual seconds per second.
fn round(seed: u64) -> f64 {
    let mut cluster = Cluster::new(seed, ClusterConfig::new(REPLICAS), Kv::default);
    cluster.form();
    for client in 0..CLIENTS {
        cluster.start_client(move |endpoint| async move {
            let mut session = endpoint.session().await.expect("registered");
            loop {
                let put = Operation::Put {
                    key: &[client as u8],
                    value: b"a value of some bytes",
                };
                session.call(&put.to_bytes()).await.expect("answered");
                sleep(PAUSE).await;
            }
        });
    }
    let began = Instant::now();
    cluster.world.run_for(VIRTUAL);
    let speed = VIRTUAL.as_secs_f64() / began.elapsed().as_secs_f64();
    let commits = cluster.checker().borrow().commits();
    assert!(commits > 20_000, "{commits} operations only");
    speed
}
