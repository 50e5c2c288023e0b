//! One connection of a client, and one to the server: how requests and responses pass between the two.

use super::{State, lock};
use crate::fault::Fault;
use crate::http::{Framing, Head, decode, read_body};
use crate::proxy::Record;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Bodies up to this size are kept: narinfos and listings.
const KEPT: usize = 4 << 20;
/// A server that has answered with an error, and has not read the request for this long, does not read it at all.
const UNREAD: Duration = Duration::from_millis(500);

/// Both sides of a connection.
struct Pair<'a> {
    client: &'a TcpStream,
    from_client: BufReader<TcpStream>,
    server: &'a TcpStream,
    from_server: BufReader<TcpStream>,
}

/// Serves one connection of a client, with one connection to the server.
pub(super) fn serve(client: &TcpStream, state: &State) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(&state.upstream)?;
    server.set_nodelay(true)?;
    let reader =
        |stream: &TcpStream| Ok::<_, io::Error>(BufReader::with_capacity(1 << 16, stream.try_clone()?));
    let mut pair =
        Pair { client, from_client: reader(client)?, server: &server, from_server: reader(&server)? };
    let result = loop {
        let Some(head) = Head::read(&mut pair.from_client)? else { break Ok(()) };
        match exchange(&head, &mut pair, state) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    let _ = server.shutdown(Shutdown::Both);
    result
}

/// The place of a request in the log.
struct Noted<'a> {
    state: &'a State,
    index: usize,
}

impl<'a> Noted<'a> {
    fn new(head: &Head, state: &'a State) -> Self {
        let (path, query) = head.word(1).split_once('?').unwrap_or((head.word(1), ""));
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
        Self { state, index: log.len() - 1 }
    }

    fn change(&self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = lock(&self.state.log).get_mut(self.index) {
            change(record);
        }
    }

    fn record(&self) -> Record {
        lock(&self.state.log).get(self.index).cloned().unwrap_or_default()
    }

    /// Notes the end of the request.
    fn ended(&self, change: impl FnOnce(&mut Record)) {
        self.change(|record| {
            record.end = Some(self.state.sequence.fetch_add(1, Ordering::SeqCst));
            record.ended = Some(self.state.started.elapsed());
            change(record);
        });
    }
}

/// Lets a request wait as the test wants it, and decides its fault.
fn admit(noted: &Noted<'_>, state: &State) -> Option<Fault> {
    std::thread::sleep(Duration::from_micros(state.latency_us.load(Ordering::SeqCst)));
    let record = noted.record();
    let fault = lock(&state.fault).as_mut().and_then(|rule| rule(&record));
    noted.change(|record| record.fault = fault);
    let rounds = lock(&state.rounds).clone();
    if let Some(rounds) = rounds {
        let round = rounds.wait(matches!(fault, Some(Fault::Status(_) | Fault::Refuse(_))));
        noted.change(|record| record.round = round);
    }
    let held = lock(&state.hold).as_ref().filter(|(rule, _)| rule(&record)).map(|(_, gate)| gate.clone());
    if let Some(gate) = held {
        gate.pass();
    }
    fault
}

/// Forwards one request and its response; returns whether the connection goes on.
fn exchange(head: &Head, pair: &mut Pair<'_>, state: &State) -> io::Result<bool> {
    let noted = Noted::new(head, state);
    let fault = admit(&noted, state);
    match fault {
        Some(Fault::Status(status)) => {
            let text = format!("HTTP/1.1 {status} Fault\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            return refuse(&noted, pair, status, &text);
        }
        Some(Fault::Refuse(refusal)) => {
            return refuse(&noted, pair, refusal.status, &refusal.to_http(head.word(0)));
        }
        Some(Fault::Drop) => return Ok(false),
        Some(Fault::Stall(time)) => std::thread::sleep(time),
        _ => {}
    }
    let cut = (fault == Some(Fault::CutRequest)).then(|| match head.request_framing() {
        Framing::Length(length) => length / 2,
        _ => 1,
    });
    if cut == Some(0) {
        // The request has no body to cut: the head is forwarded, and the response is dropped.
        let mut to_server = pair.server;
        to_server.write_all(&head.raw)?;
        return Ok(false);
    }

    // The body goes to the server while its response comes back: the server may answer early, or with 100 Continue first.
    let Pair { client, from_client, server, from_server } = pair;
    let (done, is_sent) = channel();
    std::thread::scope(|scope| {
        let upload = scope.spawn(|| {
            let result = send(head, from_client, server, fault, cut, &noted);
            let _ = done.send(());
            result
        });
        let download = respond(head, client, from_server, &is_sent, fault, &noted);
        if !matches!(download, Ok(true)) {
            // Wakes an upload that still waits for the client or the server.
            let _ = client.shutdown(Shutdown::Read);
            let _ = server.shutdown(Shutdown::Both);
        }
        let uploaded = upload.join().map_err(|_| io::Error::other("upload thread"))?;
        Ok(download? && uploaded.is_ok())
    })
}

/// Answers instead of the server.
fn refuse(noted: &Noted<'_>, pair: &mut Pair<'_>, status: u16, text: &str) -> io::Result<bool> {
    noted.ended(|record| {
        record.status = status;
        // Whatever the status, nothing was done.
        record.response = b"<Error>".to_vec();
    });
    let mut to_client = pair.client;
    to_client.write_all(text.as_bytes())?;
    drain(pair.client, &mut pair.from_client).map(|()| false)
}

/// Forwards a request to the server: all of it, or up to `cut` bytes of its body.
fn send(
    head: &Head,
    from_client: &mut BufReader<TcpStream>,
    mut server: &TcpStream,
    fault: Option<Fault>,
    cut: Option<u64>,
    noted: &Noted<'_>,
) -> io::Result<()> {
    server.write_all(&head.raw)?;
    let (mut length, mut body, mut passed) = (0, Vec::new(), 0);
    let mut raw = |raw: &[u8]| {
        passed += raw.len() as u64;
        if let Some(Fault::Slow(rate)) = fault {
            std::thread::sleep(Duration::from_secs_f64(raw.len() as f64 / rate as f64));
        }
        match cut.filter(|cut| passed > *cut) {
            Some(cut) => {
                let kept = (raw.len() as u64).saturating_sub(passed - cut) as usize;
                server.write_all(&raw[..kept])?;
                Err(io::Error::other("cut off"))
            }
            None => server.write_all(raw),
        }
    };
    let result = read_body(from_client, head.request_framing(), &mut raw, &mut |block| {
        length += block.len() as u64;
        if body.len() + block.len() <= KEPT {
            body.extend_from_slice(block);
        }
    });
    if body.len() as u64 != length {
        body.clear();
    }
    if head.header("x-amz-content-sha256").is_some_and(|v| v.starts_with("STREAMING-")) {
        body = remove_aws_chunks(&body);
    }
    noted.change(|record| (record.body_len, record.body) = (length, body));
    if result.is_err() {
        // Half a request must not look complete to the server.
        let _ = server.shutdown(Shutdown::Both);
    }
    result
}

/// Passes the response on; returns whether the connection goes on.
fn respond(
    request: &Head,
    mut client: &TcpStream,
    from_server: &mut BufReader<TcpStream>,
    is_sent: &Receiver<()>,
    fault: Option<Fault>,
    noted: &Noted<'_>,
) -> io::Result<bool> {
    let mut head = loop {
        let head = Head::read(from_server)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if !(100..200).contains(&head.status()) {
            break head;
        }
        client.write_all(&head.raw)?;
    };
    move_date(&mut head, noted.state.ahead.load(Ordering::SeqCst));
    let method = request.word(0);
    let framing = head.response_framing(method);
    let keep = method != "GET" || request.word(1).contains("list-type") || request.word(1).contains('?');
    let (mut kept, mut gone) = (Vec::new(), false);
    let (lose, half) = (fault == Some(Fault::LoseResponse), fault == Some(Fault::CutResponse));
    // Each block is held back until the next has come, the last one until the end is in the log.
    let mut held = head.raw.clone();
    let mut whole = head.raw.clone();
    let result = read_body(
        from_server,
        framing,
        &mut |raw| {
            if half {
                whole.extend_from_slice(raw);
            } else if !lose && !gone {
                // Even when the client is gone, the log shows how the request ended.
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
    noted.change(|record| (record.status, record.response) = (head.status(), kept));
    result?;
    noted.ended(|_| {});
    if half {
        client.write_all(&whole[..whole.len() - 1 - (whole.len() - head.raw.len()) / 2])?;
    }
    if lose || half || gone {
        return Ok(false);
    }
    client.write_all(&held)?;
    // The last bytes of the request may just have gone out.
    let is_unread = head.status() >= 300 && is_sent.recv_timeout(UNREAD).is_err();
    Ok(!head.closes() && framing != Framing::UntilClose && !is_unread)
}

/// Moves the date of a response by so many seconds into the future.
fn move_date(head: &mut Head, seconds: u64) {
    let Some(old) = head.header("date").filter(|_| seconds > 0) else { return };
    let Ok(date) = httpdate::parse_http_date(old) else { return };
    let new = httpdate::fmt_http_date(date + Duration::from_secs(seconds));
    head.raw = String::from_utf8_lossy(&head.raw).replace(old, &new).into_bytes();
}

/// Lets a client finish sending, so that it reads the response instead of a reset.
fn drain(client: &TcpStream, from: &mut BufReader<TcpStream>) -> io::Result<()> {
    client.shutdown(Shutdown::Write)?;
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
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
    fn a_date_is_moved() {
        let raw = b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: x\r\n\r\n";
        let mut head = Head::read(&mut &raw[..]).unwrap().unwrap();
        move_date(&mut head, 0);
        assert_eq!(head.raw, raw);
        move_date(&mut head, 86_400);
        let moved = "HTTP/1.1 200 OK\r\nDate: Mon, 07 Nov 1994 08:49:37 GMT\r\nServer: x\r\n\r\n";
        assert_eq!(String::from_utf8(head.raw).unwrap(), moved);
    }

    #[test]
    fn aws_chunks_are_removed() {
        let body =
            b"5;chunk-signature=ab\r\nhello\r\n0;chunk-signature=cd\r\nx-amz-checksum-crc32:AAAA==\r\n\r\n";
        assert_eq!(remove_aws_chunks(body), b"hello");
        assert_eq!(remove_aws_chunks(b"plain"), b"plain");
    }
}
