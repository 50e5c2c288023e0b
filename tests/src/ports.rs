//! Free ports on the loopback.
//!
//! The ports lie below the range that the kernel hands out for outgoing connections. So a port stays free while nothing
//! listens on it for a moment, for example while a server restarts or a proxy is switched off.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const FIRST: u32 = 12_000;
const COUNT: u32 = 10_000;
/// SeaweedFS listens for gRPC on the port that is this much above each of its ports.
const GRPC: u16 = 10_000;
static NEXT: AtomicU32 = AtomicU32::new(0);
static RESERVED: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());

/// Returns a port on which nothing listens, and neither does on the port 10,000 above it. No other call returns the
/// port while this process lives, neither here nor in another process of these tests.
///
/// # Panics
/// When no port is free.
pub fn free() -> u16 {
    // Processes that run at the same time begin in different places.
    let start = std::process::id().wrapping_mul(61);
    for _ in 0..COUNT {
        let n = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = (FIRST + n) as u16;
        if reserve(port) && nothing_listens(port) && nothing_listens(port + GRPC) {
            return port;
        }
    }
    panic!("no port between {FIRST} and {} is free", FIRST + COUNT);
}

/// Listens on a port that [`free`] returned. A program that looks for a port of its own may hold the port for a moment, so
/// this tries again for some seconds.
///
/// # Errors
/// When the port stays in use.
pub fn listen(port: u16) -> io::Result<TcpListener> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20));
            }
            listening => return listening,
        }
    }
}

/// Reserves a port until the end of this process: the kernel lets one process bind an abstract address at a time, and
/// releases it however the process ends.
fn reserve(port: u16) -> bool {
    let address = SocketAddr::from_abstract_name(format!("larder-tests-port-{port}"));
    let Ok(socket) = address.and_then(|address| UnixDatagram::bind_addr(&address)) else { return false };
    RESERVED.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
    true
}

fn nothing_listens(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_handed_out_once() {
        let mut ports: Vec<_> = (0..50).map(|_| free()).collect();
        assert!(ports.iter().all(|port| !reserve(*port)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }
}
