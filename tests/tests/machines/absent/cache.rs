//! A static cache that misbehaves on request, and an address that never answers.

use anyhow::Result;
use larder_tests::process::eventually;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::LIMIT;

/// How the cache answers: it serves its directory, fails each request, has no NARs, or takes requests without answering.
pub(super) const GOOD: u8 = 0;
pub(super) const ERRORS: u8 = 1;
pub(super) const NO_NARS: u8 = 2;
pub(super) const SILENT: u8 = 3;

/// A running cache.
pub(super) struct Cache {
    pub(super) address: SocketAddr,
    pub(super) mode: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Cache {
    /// Starts a cache at a loopback address that no other has, so that nobody takes its port while it is away.
    pub(super) fn start(directory: &Path, host: &str) -> Result<Self> {
        let listener = TcpListener::bind((host, 0))?;
        let address = listener.local_addr()?;
        let (mode, stop) = (Arc::new(AtomicU8::new(GOOD)), Arc::new(AtomicBool::new(false)));
        let (shared, ended, directory) = (mode.clone(), stop.clone(), directory.to_owned());
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let kept = open.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend(stream.try_clone());
                let (mode, directory) = (shared.clone(), directory.clone());
                std::thread::spawn(move || answer(stream, &mode, &directory));
            }
        });
        Ok(Self { address, mode, stop, open, thread: Some(thread) })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops listening, and ends the open connections.
    pub(super) fn refuse(&mut self) {
        self.deafen();
        self.cut();
    }

    /// Ends the open connections: a kept connection would go on as before.
    pub(super) fn cut(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Stops listening.
    pub(super) fn deafen(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop.store(true, Ordering::SeqCst);
            let _ = TcpStream::connect(self.address);
            let _ = thread.join();
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.refuse();
    }
}

fn answer(mut stream: TcpStream, mode: &AtomicU8, directory: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(request) = lines.next() {
        let request = request?;
        for line in lines.by_ref() {
            if line?.is_empty() {
                break;
            }
        }
        let key = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let file = std::fs::read(directory.join(&key)).ok();
        let (status, body) = match (mode.load(Ordering::SeqCst), file) {
            (SILENT, _) => {
                std::thread::sleep(LIMIT);
                return Ok(());
            }
            (ERRORS, _) => ("500 Internal Server Error", Vec::new()),
            (NO_NARS, Some(_)) if key.starts_with("nar/") => ("404 Not Found", Vec::new()),
            (_, Some(body)) => ("200 OK", body),
            (_, None) => ("404 Not Found", Vec::new()),
        };
        let head = request.starts_with("HEAD");
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len())?;
        if !head {
            stream.write_all(&body)?;
        }
        stream.flush()?;
    }
    Ok(())
}

/// An address that is listened at without a connection ever being taken: the listener, and what fills its queue.
pub(super) type BlackHole = (rustix::fd::OwnedFd, Vec<TcpStream>);

/// Listens at an address with a queue that is full.
pub(super) fn black_hole(address: SocketAddr) -> Result<BlackHole> {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    // A process that another thread is just starting may hold the port for a moment.
    eventually("the port being free", LIMIT, || bind(&listener, &address).is_ok())?;
    listen(&listener, 0)?;
    // The kernel answers a connection at once while the queue has room.
    let fill = |_| TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok();
    let filled: Vec<_> = (0..8).map_while(fill).collect();
    anyhow::ensure!(filled.len() < 8, "the queue of {address} does not fill");
    Ok((listener, filled))
}
