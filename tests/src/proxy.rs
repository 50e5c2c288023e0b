//! A recording proxy in front of an S3 server, and a network that can fail.
//!
//! It forwards bytes as they come, the `Host` header included: a client signs for the proxy's address and the server
//! checks that same header, so signatures stay valid. Of each request it logs, in one order, the start (its head has
//! come) and the end (the server's **complete** response has come, noted before the client gets the last of it). So
//! when a client begins a request because another has been answered, the log says so too.

pub use crate::fault::Fault;
use crate::http::{Framing, Head, decode, read_body};
use crate::ports;
use anyhow::{Context, Result};
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bodies are kept up to this size: narinfos and listings.
const KEPT: usize = 4 << 20;

/// One request as the proxy saw it.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Place in the order of all starts and ends.
    pub start: u64,
    /// The same for the end; `None` while it runs and when it was cut off.
    pub end: Option<u64>,
    /// When it started, from the start of the proxy.
    pub began: Duration,
    /// When it ended; as `end`.
    pub ended: Option<Duration>,
    /// What was done to it.
    pub fault: Option<Fault>,
    /// The method.
    pub method: String,
    /// The path, decoded, without the query.
    pub path: String,
    /// The query as it came, without `?`.
    pub query: String,
    /// The request's headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The response's status; 0 when there was none.
    pub status: u16,
    /// Length of the request's body, without any chunk framing.
    pub body_len: u64,
    /// The request's body, if it is a small one (aws-chunked removed).
    pub body: Vec<u8>,
    /// The response's body, if it is a small one and not an object.
    pub response: Vec<u8>,
}

impl Record {
    /// Whether a complete response came and reports success (S3 may send an error with status 200).
    pub fn succeeded(&self) -> bool {
        self.end.is_some()
            && (200..300).contains(&self.status)
            && !String::from_utf8_lossy(&self.response[..self.response.len().min(1024)]).contains("<Error>")
    }

    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

type FaultRule = Box<dyn FnMut(&Record) -> Option<Fault> + Send>;

struct State {
    upstream: String,
    started: Instant,
    log: Mutex<Vec<Record>>,
    sequence: AtomicU64,
    stopping: AtomicBool,
    latency_us: AtomicU64,
    fault: Mutex<Option<FaultRule>>,
    streams: Mutex<Vec<(u64, TcpStream)>>,
}

/// The running proxy.
pub struct Proxy {
    state: Arc<State>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proxy({} -> {})", self.address, self.state.upstream)
    }
}

impl Proxy {
    /// Starts one in front of `http://HOST:PORT`.
    pub fn start(endpoint: &str) -> Result<Self> {
        let (host, _) = crate::http::split_url(endpoint)?;
        let state = Arc::new(State {
            upstream: host.to_owned(),
            started: Instant::now(),
            log: Mutex::default(),
            sequence: AtomicU64::default(),
            stopping: AtomicBool::default(),
            latency_us: AtomicU64::default(),
            fault: Mutex::default(),
            streams: Mutex::default(),
        });
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
        let mut proxy = Self { state, address, acceptor: None };
        proxy.switch_on()?;
        Ok(proxy)
    }

    /// `http://HOST:PORT` of the proxy; the same all its life.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Accepts connections (again).
    pub fn switch_on(&mut self) -> Result<()> {
        if self.acceptor.is_none() {
            let listener =
                TcpListener::bind(self.address).with_context(|| format!("listening on {}", self.address))?;
            self.state.stopping.store(false, Ordering::SeqCst);
            let state = self.state.clone();
            self.acceptor = Some(std::thread::spawn(move || accept(&listener, &state)));
        }
        Ok(())
    }

    /// Refuses connections and cuts those that stand.
    pub fn switch_off(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            self.state.stopping.store(true, Ordering::SeqCst);
            // Wakes the acceptor.
            let _ = TcpStream::connect(self.address);
            let _ = acceptor.join();
            for (_, stream) in lock(&self.state.streams).drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Delays each request by this.
    pub fn set_latency(&self, latency: Duration) {
        self.state.latency_us.store(latency.as_micros() as u64, Ordering::SeqCst);
    }

    /// Asks a rule about each request from now on.
    pub fn set_fault(&self, rule: impl FnMut(&Record) -> Option<Fault> + Send + 'static) {
        *lock(&self.state.fault) = Some(Box::new(rule));
    }

    /// No more faults.
    pub fn clear_fault(&self) {
        *lock(&self.state.fault) = None;
    }

    /// The requests so far, by their start.
    pub fn log(&self) -> Vec<Record> {
        lock(&self.state.log).clone()
    }

    /// Forgets the requests so far (only while none runs).
    pub fn clear_log(&self) {
        lock(&self.state.log).clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.switch_off();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for (id, stream) in listener.incoming().enumerate() {
        if state.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let id = state.sequence.load(Ordering::SeqCst) << 20 | id as u64;
        if let Ok(handle) = stream.try_clone() {
            lock(&state.streams).push((id, handle));
        }
        let state = state.clone();
        std::thread::spawn(move || {
            // An error is the end of the connection, and the log shows a request without an end.
            let _ = serve(&stream, &state);
            let _ = stream.shutdown(Shutdown::Both);
            lock(&state.streams).retain(|(other, _)| *other != id);
        });
    }
}

/// Serves one connection of a client, with one connection to the server.
fn serve(client: &TcpStream, state: &State) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut from_client = BufReader::with_capacity(1 << 16, client.try_clone()?);
    let server = TcpStream::connect(&state.upstream)?;
    server.set_nodelay(true)?;
    let mut from_server = BufReader::with_capacity(1 << 16, server.try_clone()?);
    let result = loop {
        let Some(head) = Head::read(&mut from_client)? else { break Ok(()) };
        match exchange(&head, &mut from_client, client, &mut from_server, &server, state) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    let _ = server.shutdown(Shutdown::Both);
    result
}

/// Forwards one request and its response; whether the connection goes on.
fn exchange(
    head: &Head,
    from_client: &mut BufReader<TcpStream>,
    mut client: &TcpStream,
    from_server: &mut BufReader<TcpStream>,
    server: &TcpStream,
    state: &State,
) -> io::Result<bool> {
    let (path, query) = head.word(1).split_once('?').unwrap_or((head.word(1), ""));
    let index = {
        let mut log = lock(&state.log);
        log.push(Record {
            start: state.sequence.fetch_add(1, Ordering::SeqCst),
            began: state.started.elapsed(),
            method: head.word(0).to_owned(),
            path: decode(path),
            query: query.to_owned(),
            headers: head.headers.clone(),
            ..Record::default()
        });
        log.len() - 1
    };
    let note = |change: &mut dyn FnMut(&mut Record)| {
        if let Some(record) = lock(&state.log).get_mut(index) {
            change(record);
        }
    };
    std::thread::sleep(Duration::from_micros(state.latency_us.load(Ordering::SeqCst)));
    let record = lock(&state.log).get(index).cloned().unwrap_or_default();
    let fault = lock(&state.fault).as_mut().and_then(|rule| rule(&record));
    note(&mut |r| r.fault = fault);
    let answer = match fault {
        Some(Fault::Status(status)) => Some((
            status,
            format!("HTTP/1.1 {status} Fault\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
        )),
        Some(Fault::Refuse(refusal)) => Some((refusal.status, refusal.to_http(head.word(0)))),
        Some(Fault::Drop) => return Ok(false),
        Some(Fault::Stall(time)) => {
            std::thread::sleep(time);
            None
        }
        _ => None,
    };
    if let Some((status, text)) = answer {
        note(&mut |r| {
            (r.status, r.end) = (status, Some(state.sequence.fetch_add(1, Ordering::SeqCst)));
            r.ended = Some(state.started.elapsed());
            // Whatever the status, nothing was done.
            r.response = b"<Error>".to_vec();
        });
        client.write_all(text.as_bytes())?;
        return drain(client, from_client).map(|()| false);
    }
    let cut = (fault == Some(Fault::CutRequest)).then(|| match head.request_framing() {
        Framing::Length(length) => length / 2,
        _ => 1,
    });
    if cut == Some(0) {
        // There is no body to cut: the head is forwarded, and nobody waits for what comes of it.
        let mut to_server = server;
        to_server.write_all(&head.raw)?;
        return Ok(false);
    }

    // The body goes to the server while its response comes back: it may answer early, or with 100 Continue first.
    std::thread::scope(|scope| {
        let upload = scope.spawn(|| -> io::Result<()> {
            let mut to_server = server;
            to_server.write_all(&head.raw)?;
            let (mut length, mut body) = (0, Vec::new());
            let is_small = |n: usize| n <= KEPT;
            let mut passed = 0;
            let result = read_body(
                from_client,
                head.request_framing(),
                &mut |raw| {
                    passed += raw.len() as u64;
                    if let Some(Fault::Slow(rate)) = fault {
                        std::thread::sleep(Duration::from_secs_f64(raw.len() as f64 / rate as f64));
                    }
                    match cut.filter(|cut| passed > *cut) {
                        Some(cut) => {
                            let kept = (raw.len() as u64).saturating_sub(passed - cut) as usize;
                            to_server.write_all(&raw[..kept])?;
                            Err(io::Error::other("cut off"))
                        }
                        None => to_server.write_all(raw),
                    }
                },
                &mut |block| {
                    length += block.len() as u64;
                    if is_small(body.len() + block.len()) {
                        body.extend_from_slice(block);
                    }
                },
            );
            if body.len() as u64 != length {
                body.clear();
            }
            if head.header("x-amz-content-sha256").is_some_and(|v| v.starts_with("STREAMING-")) {
                body = remove_aws_chunks(&body);
            }
            note(&mut |r| (r.body_len, r.body) = (length, std::mem::take(&mut body)));
            if result.is_err() {
                // Half a request must not look complete to the server.
                let _ = server.shutdown(Shutdown::Both);
            }
            result
        });
        let download = respond(head, client, from_server, &upload, fault, &note, state);
        if !matches!(download, Ok(true)) {
            // Wakes an upload that still waits for the client or the server.
            let _ = client.shutdown(Shutdown::Read);
            let _ = server.shutdown(Shutdown::Both);
        }
        let uploaded = upload.join().map_err(|_| io::Error::other("upload thread"))?;
        Ok(download? && uploaded.is_ok())
    })
}

/// Changes the record of the request at hand.
type Note<'a> = dyn Fn(&mut dyn FnMut(&mut Record)) + 'a;

/// Passes the response on; whether the connection goes on.
fn respond<T>(
    request: &Head,
    mut client: &TcpStream,
    from_server: &mut BufReader<TcpStream>,
    upload: &std::thread::ScopedJoinHandle<'_, T>,
    fault: Option<Fault>,
    note: &Note<'_>,
    state: &State,
) -> io::Result<bool> {
    loop {
        let head = Head::read(from_server)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if (100..200).contains(&head.status()) {
            client.write_all(&head.raw)?;
            continue;
        }
        let method = request.word(0);
        let framing = head.response_framing(method);
        let keep = method != "GET" || request.word(1).contains("list-type") || request.word(1).contains('?');
        let (mut kept, mut gone) = (Vec::new(), false);
        // Each block is held back until the next has come, the last one until the end is in the log.
        let mut held = head.raw.clone();
        let (lose, half) = (fault == Some(Fault::LoseResponse), fault == Some(Fault::CutResponse));
        let mut whole = head.raw.clone();
        let result = read_body(
            from_server,
            framing,
            &mut |raw| {
                if half {
                    whole.extend_from_slice(raw);
                } else if !lose && !gone {
                    // A client that is gone does not keep us from seeing how the request ended.
                    gone = client.write_all(&held).is_err();
                }
                held.clear();
                held.extend_from_slice(raw);
                Ok(())
            },
            &mut |block| {
                if keep && kept.len() + block.len() <= KEPT {
                    kept.extend_from_slice(block);
                }
            },
        );
        note(&mut |r| {
            r.status = head.status();
            if result.is_ok() {
                r.end = Some(state.sequence.fetch_add(1, Ordering::SeqCst));
                r.ended = Some(state.started.elapsed());
            }
            r.response = std::mem::take(&mut kept);
        });
        result?;
        if half {
            client.write_all(&whole[..whole.len() - 1 - (whole.len() - head.raw.len()) / 2])?;
        }
        if lose || half || gone {
            return Ok(false);
        }
        client.write_all(&held)?;
        // A server that answers before it has read all will not read the rest. (The last bytes may just have gone out.)
        let started = Instant::now();
        while !upload.is_finished() && started.elapsed() < Duration::from_millis(50) {
            std::thread::yield_now();
        }
        let early = !upload.is_finished() && head.status() >= 300;
        return Ok(!head.closes() && framing != Framing::UntilClose && !early);
    }
}

/// Lets a client finish sending, so that it reads our response instead of a reset.
fn drain(client: &TcpStream, from: &mut BufReader<TcpStream>) -> io::Result<()> {
    client.shutdown(Shutdown::Write)?;
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let _ = io::copy(from, &mut io::sink());
    Ok(())
}

/// The payload of a body in `aws-chunked` encoding: `SIZE[;chunk-signature=…]`, data, … and trailers.
fn remove_aws_chunks(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reader = body;
    let result =
        read_body(&mut reader, Framing::Chunked, &mut |_| Ok(()), &mut |block| out.extend_from_slice(block));
    if result.is_ok() { out } else { body.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_chunks_are_removed() {
        let body =
            b"5;chunk-signature=ab\r\nhello\r\n0;chunk-signature=cd\r\nx-amz-checksum-crc32:AAAA==\r\n\r\n";
        assert_eq!(remove_aws_chunks(body), b"hello");
        assert_eq!(remove_aws_chunks(b"plain"), b"plain");
    }
}
