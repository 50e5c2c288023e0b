//! Free ports on the loopback.
//!
//! They lie below the range that the kernel hands out for outgoing connections, so that a port stays ours while
//! nothing listens on it for a moment (a server that restarts, a proxy that is switched off).

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 12_000;
const COUNT: u32 = 10_000;
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port that nothing listens on, and neither on the one 10,000 above it (SeaweedFS puts gRPC there).
///
/// # Panics
/// When there is none.
pub fn free() -> u16 {
    // Processes that run at once begin in different places.
    let start = std::process::id().wrapping_mul(61);
    for _ in 0..COUNT {
        let n = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = (FIRST + n) as u16;
        let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if is_free(port) && is_free(port + 10_000) {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
