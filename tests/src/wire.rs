//! A line of a given rate and delay between clients and a server on the loopback.
//!
//! It forwards bytes verbatim, so that signatures stay valid: a client signs for the wire's address, and the server
//! checks the `Host` header that it gets. Each direction is one line that all connections share: a block waits until the blocks before it have left, takes its own time at the line's rate, and arrives half the
//! delay later. Nothing is ever faster than the line, not even for a moment. Up to [`QUEUE`] may wait in front of it, so
//! that a thread that is woken late leaves no gap. A new connection carries nothing for the time of a round trip, the cost
//! of its set-up.

use anyhow::{Context, Result};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The size of a block: 0.65 ms at 200 Mbit/s.
const BLOCK: usize = 16 << 10;
/// The time on the line that may wait in front of it.
const QUEUE: Duration = Duration::from_millis(20);
/// Blocks of one connection and direction that may be on their way: a window of 4 MiB.
const WINDOW: usize = 256;
/// The receive buffer of the kernel: small, so that a client cannot count megabytes as sent that have not left.
const RECEIVE_BUFFER: usize = 256 << 10;
/// The width of a slot of [`Traffic`].
pub const SLOT: Duration = Duration::from_millis(100);

/// The traffic of a wire since its start or the last [`Wire::reset`].
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Bytes to the server, in slots of 100 ms.
    pub up: Vec<u64>,
    /// Bytes to the clients, in slots of 100 ms.
    pub down: Vec<u64>,
    /// The uploads of NARs: from the first byte of the first upload until the last byte of the last upload had left.
    pub nars: Option<Span>,
}

/// Bytes between two moments, counted from the start or the last reset.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// When it began.
    pub first: Duration,
    /// When it ended.
    pub last: Duration,
    /// The number of bytes that were sent.
    pub bytes: u64,
}

impl Span {
    /// The share that it used of a line of this rate, in bits per second.
    pub fn share(&self, rate: u64) -> f64 {
        self.bytes as f64 * 8.0 / (rate as f64 * self.last.saturating_sub(self.first).as_secs_f64())
    }
}

/// One direction.
struct Line {
    rate: Option<u64>,
    state: Mutex<LineState>,
}

struct LineState {
    since: Instant,
    free_at: Instant,
    slots: Vec<u64>,
    nars: Option<Span>,
}

impl Line {
    fn new(rate: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            rate,
            state: Mutex::new(LineState { since: now, free_at: now, slots: Vec::new(), nars: None }),
        }
    }

    /// Queues bytes for the line; returns the time at which the last of them will have left.
    fn send(&self, bytes: usize, nar: bool) -> Instant {
        let time = self.rate.map_or(0, |rate| bytes as u64 * 8_000_000_000 / rate.max(1));
        let mut state = lock(&self.state);
        let begun = state.free_at.max(Instant::now());
        let left = begun + Duration::from_nanos(time);
        state.free_at = left;
        let (first, last) = (begun.duration_since(state.since), left.duration_since(state.since));
        let slot = (last.as_nanos() / SLOT.as_nanos()) as usize;
        if state.slots.len() <= slot {
            state.slots.resize(slot + 1, 0);
        }
        state.slots[slot] += bytes as u64;
        if nar {
            let span = state.nars.get_or_insert(Span { first, last, bytes: 0 });
            (span.last, span.bytes) = (last, span.bytes + bytes as u64);
        }
        left
    }

    fn reset(&self, since: Instant) {
        let mut state = lock(&self.state);
        state.since = since;
        state.slots.clear();
        state.nars = None;
    }
}

struct Shared {
    upstream: SocketAddr,
    half: Duration,
    up: Line,
    down: Line,
    stopping: AtomicBool,
    open: Mutex<Vec<Weak<Connection>>>,
}

/// Closed when the threads of both its directions have ended.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

/// The running wire.
pub struct Wire {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wire({} -> {})", self.address, self.shared.upstream)
    }
}

impl Wire {
    /// Starts a wire in front of `http://HOST:PORT`, an address with a number. `rate` is in bits per second and holds for
    /// each direction by itself; `delay` is that of a round trip, half of it each way.
    pub fn start(endpoint: &str, rate: Option<u64>, delay: Duration) -> Result<Self> {
        let (host, _) = crate::http::split_url(endpoint)?;
        let upstream = host.parse().with_context(|| format!("the address `{host}`"))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
        // Connections inherit it.
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, RECEIVE_BUFFER)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            half: delay / 2,
            up: Line::new(rate),
            down: Line::new(rate),
            stopping: AtomicBool::new(false),
            open: Mutex::new(Vec::new()),
        });
        let acceptor = std::thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared)
        });
        Ok(Self { shared, address, acceptor: Some(acceptor) })
    }

    /// `http://HOST:PORT` of the near end.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The traffic so far.
    pub fn traffic(&self) -> Traffic {
        let (up, down) = (lock(&self.shared.up.state), lock(&self.shared.down.state));
        Traffic { up: up.slots.clone(), down: down.slots.clone(), nars: up.nars }
    }

    /// Resets the counters. Call this while nothing is on its way.
    pub fn reset(&self) {
        let now = Instant::now();
        self.shared.up.reset(now);
        self.shared.down.reset(now);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for connection in lock(&self.shared.open).drain(..).filter_map(|open| open.upgrade()) {
            let _ = connection.client.shutdown(Shutdown::Both);
            let _ = connection.server.shutdown(Shutdown::Both);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        // An error ends its connection.
        let _ = client.and_then(|client| connect(client, shared));
    }
}

/// Connects a client with the server: for each direction a thread that receives blocks and a thread that delivers them.
fn connect(client: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    let begun = Instant::now();
    let server = TcpStream::connect(shared.upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let connection = Arc::new(Connection { client, server });
    {
        let mut open = lock(&shared.open);
        open.retain(|open| open.strong_count() > 0);
        open.push(Arc::downgrade(&connection));
    }
    for is_up in [true, false] {
        let (sender, receiver) = sync_channel(WINDOW);
        let (from, to, shared) = (connection.clone(), connection.clone(), shared.clone());
        std::thread::spawn(move || {
            if is_up {
                sleep_until(begun + shared.half * 2);
                take_in(&from.client, &shared.up, shared.half, &sender);
            } else {
                take_in(&from.server, &shared.down, shared.half, &sender);
            }
        });
        std::thread::spawn(move || deliver(if is_up { &to.server } else { &to.client }, &receiver));
    }
    Ok(())
}

/// A block and its time of arrival.
type Block = (Instant, Box<[u8]>);

fn take_in(mut from: &TcpStream, line: &Line, half: Duration, sender: &SyncSender<Block>) {
    let mut buffer = vec![0; BLOCK];
    let mut nar = false;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let block = &buffer[..count];
        if let Some(begins_nar) = begins_request(block) {
            nar = begins_nar;
        }
        let left = line.send(count, nar);
        if sender.send((left + half, block.into())).is_err() {
            break;
        }
        if let Some(time) = left.checked_sub(QUEUE) {
            sleep_until(time);
        }
    }
    let _ = from.shutdown(Shutdown::Read);
}

fn deliver(mut to: &TcpStream, receiver: &Receiver<Block>) {
    for (time, block) in receiver {
        sleep_until(time);
        if to.write_all(&block).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Whether a block begins a request, and whether the request uploads a NAR. A client that waits for each answer begins a
/// request with a block of its own.
fn begins_request(block: &[u8]) -> Option<bool> {
    let is = |method: &[u8]| block.starts_with(method);
    let other = [b"GET /".as_slice(), b"HEAD /", b"POST /", b"DELETE /"];
    if !is(b"PUT /") {
        return other.into_iter().any(is).then_some(false);
    }
    let line = block.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Some(line.windows(5).any(|part| part == b"/nar/"))
}

fn sleep_until(time: Instant) {
    let left = time.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        std::thread::sleep(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back so many bytes of the first line as `answer` says, and takes in everything else.
    fn server(answer: bool) -> (String, JoinHandle<u64>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        (endpoint, std::thread::spawn(move || serve(&listener, answer)))
    }

    fn serve(listener: &TcpListener, answer: bool) -> u64 {
        let mut threads = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut first = [0];
            if stream.read(&mut first).unwrap() == 0 {
                break;
            }
            threads.push(std::thread::spawn(move || {
                let (mut count, mut buffer) = (1, vec![0; 1 << 16]);
                while let Ok(more @ 1..) = stream.read(&mut buffer) {
                    count += more as u64;
                    if answer {
                        stream.write_all(&buffer[..more]).unwrap();
                    }
                }
                let _ = stream.write_all(b"!");
                count
            }));
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    }

    fn stop(endpoint: &str, thread: JoinHandle<u64>) -> u64 {
        drop(TcpStream::connect(endpoint.trim_start_matches("http://")).unwrap());
        thread.join().unwrap()
    }

    /// The rate of the tests, in bits a second.
    const RATE: u64 = 200_000_000;

    /// Sends 20 MB over so many connections at a rate; returns the seconds that this takes.
    fn upload(connections: usize, rate: u64) -> f64 {
        let each = 20_000_000 / connections;
        let (endpoint, thread) = server(false);
        let wire = Wire::start(&endpoint, Some(rate), Duration::ZERO).unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..connections {
                scope.spawn(|| {
                    let mut stream = TcpStream::connect(wire.address).unwrap();
                    stream.write_all(b"PUT /bucket/nar/x HTTP/1.1\r\n").unwrap();
                    stream.write_all(&vec![7; each - 28]).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                    assert_eq!(stream.read(&mut [0]).unwrap(), 1);
                });
            }
        });
        let took = begun.elapsed().as_secs_f64();
        let total = (each * connections) as u64;
        let traffic = wire.traffic();
        assert_eq!(traffic.up.iter().sum::<u64>(), total);
        assert!(traffic.up.iter().all(|slot| *slot <= rate / 80 + BLOCK as u64), "{:?}", traffic.up);
        let nars = traffic.nars.unwrap();
        assert_eq!(nars.bytes, total);
        assert!(nars.share(rate) <= 1.001);
        drop(wire);
        assert_eq!(stop(&endpoint, thread), total);
        took
    }

    /// Measures up to ten times, until a time is at most `most` seconds and three controls longer than `least`. The control
    /// is measured after each time, so that a busy machine slows both. No time may be shorter than `least`.
    fn soon_enough(
        least: f64,
        most: f64,
        mut measure: impl FnMut() -> f64,
        mut control: impl FnMut() -> f64,
    ) {
        let times: Vec<_> = std::iter::repeat_with(|| {
            let took = measure();
            assert!(took >= least, "{took} s is less than {least} s");
            (took, control())
        })
        .take(10)
        .take_while(|(took, control)| *took > least + most + 3.0 * control)
        .collect();
        assert!(times.len() < 10, "{times:?} s (with controls), not one soon enough");
    }

    #[test]
    fn all_connections_share_the_rate() {
        for connections in [1, 32] {
            soon_enough(0.79, 0.09, || upload(connections, RATE), || upload(connections, 100 * RATE));
        }
    }

    #[test]
    fn a_round_trip_takes_the_delay_and_a_connection_one_more() {
        let (endpoint, thread) = server(true);
        let round_trips = |wire: &Wire| {
            let begun = Instant::now();
            let mut stream = TcpStream::connect(wire.address).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.write_all(b"xy").unwrap();
            for _ in 0..2 {
                assert_eq!(stream.read(&mut [0; 9]).unwrap(), 1);
                stream.write_all(b"z").unwrap();
            }
            begun.elapsed().as_secs_f64()
        };
        let wire = Wire::start(&endpoint, None, Duration::from_millis(50)).unwrap();
        let short = Wire::start(&endpoint, None, Duration::ZERO).unwrap();
        soon_enough(0.15, 0.015, || round_trips(&wire), || round_trips(&short));
        drop((wire, short));
        stop(&endpoint, thread);
    }

    #[test]
    fn uploads_of_nars_are_known() {
        assert_eq!(begins_request(b"PUT /b/nar/1abc.nar.zst?x HTTP/1.1\r\nHost: x\r\n"), Some(true));
        assert_eq!(begins_request(b"PUT /b/1abc.narinfo HTTP/1.1\r\nX: /nar/\r\n"), Some(false));
        assert_eq!(begins_request(b"GET /b/nar/1abc HTTP/1.1\r\n"), Some(false));
        assert_eq!(begins_request(b"PUTnothing"), None);
    }
}
