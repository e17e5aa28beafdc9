//! A UDP echo server that takes all datagrams that have arrived and answers them out of the very
//! buffers they came in.
//!
//! ```text
//! cargo run -p viewring-examples --example udp_echo            # talks to itself, then ends
//! cargo run -p viewring-examples --example udp_echo 7777       # serves until ctrl-c
//! ```

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::{Either, select};
use viewring::runtime::net::UdpSocket;
use viewring::runtime::time::{Instant, timeout};
use viewring::runtime::{block_on, signal, spawn};

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        Some(port) => block_on(serve_until_stopped(port.parse()?))?,
        None => block_on(talk_to_oneself())?,
    }
}

async fn echo(socket: UdpSocket) -> std::io::Result<()> {
    let mut arrived = Vec::new();
    loop {
        // Dropping this future, here or anywhere, loses no datagram.
        socket.recv_many(&mut arrived, 64).await?;
        for datagram in arrived.drain(..) {
            let from = datagram.from();
            // One submission for all of them, with the loop's next turn. A refused one is lost,
            // as datagrams may be.
            let _refused = socket.post_to(datagram.into_payload(), from);
        }
    }
}

async fn serve_until_stopped(port: u16) -> Result<(), Box<dyn Error>> {
    let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    println!("echoing on {}; ctrl-c ends it", socket.local_addr());
    let server = std::pin::pin!(echo(socket));
    match select(server, std::pin::pin!(signal::shutdown())).await {
        Either::Left((failed, _)) => failed?,
        Either::Right((stopped, _)) => stopped?,
    }
    println!("goodbye");
    Ok(())
}

async fn talk_to_oneself() -> Result<(), Box<dyn Error>> {
    let server = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let to = server.local_addr();
    spawn(echo(server)).detach();
    let client = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let mut buf = [0; 64];
    let begun = Instant::now();
    let rounds = 10_000u32;
    for round in 0..rounds {
        client.send_to(&round.to_le_bytes(), to).await?;
        let answer = timeout(Duration::from_secs(1), client.recv_from(&mut buf)).await;
        let (len, from) = answer??;
        assert_eq!((&buf[..len], from), (&round.to_le_bytes()[..], to));
    }
    println!("{rounds} round trips, {:?} each", begun.elapsed() / rounds);
    Ok(())
}
