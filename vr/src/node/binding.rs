//! Opening a replica's sockets.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use viewring_runtime::time::{Instant, sleep};

use super::ConfigError;

/// How long a taken port is tried again: a ring that died keeps its sockets for some 50 ms.
const BIND_FOR: Duration = Duration::from_secs(1);

/// Opens a socket; a port that is taken is tried again for a while.
pub(super) async fn bind<E>(
    addr: SocketAddr,
    mut open: impl FnMut(SocketAddr) -> io::Result<E>,
) -> Result<E, ConfigError> {
    let give_up_at = Instant::now() + BIND_FOR;
    loop {
        match open(addr) {
            Ok(endpoint) => return Ok(endpoint),
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up_at =>
            {
                sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(ConfigError::Bind(addr, error)),
        }
    }
}
