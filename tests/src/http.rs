//! The part of HTTP/1.1 that the harness needs: heads, bodies of each framing, and a client with one request per connection.

use anyhow::{Context, Result, bail};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A request's or response's first line and headers, and its bytes as they came.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The first line.
    pub line: String,
    /// Names in lower case, values trimmed, in order.
    pub headers: Vec<(String, String)>,
    /// The bytes, the empty line included.
    pub raw: Vec<u8>,
}

impl Head {
    /// Reads a head; `None` at a clean end of the connection.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = Self::default();
        loop {
            let start = head.raw.len();
            if from.by_ref().take(1 << 20).read_until(b'\n', &mut head.raw)? == 0 {
                return if start == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let text = String::from_utf8_lossy(&head.raw[start..]).trim_end().to_owned();
            if start == 0 {
                head.line = text;
            } else if text.is_empty() {
                return Ok(Some(head));
            } else if let Some((name, value)) = text.split_once(':') {
                head.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }

    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The n-th word of the first line.
    pub fn word(&self, n: usize) -> &str {
        self.line.split(' ').nth(n).unwrap_or_default()
    }

    /// The status of a response; 0 when this is no response.
    pub fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or(0)
    }

    /// The framing of the body of a request.
    pub fn request_framing(&self) -> Framing {
        self.declared().unwrap_or(Framing::Length(0))
    }

    /// The framing of the body of the response to `method`.
    pub fn response_framing(&self, method: &str) -> Framing {
        match self.status() {
            _ if method == "HEAD" => Framing::Length(0),
            100..=199 | 204 | 304 => Framing::Length(0),
            _ => self.declared().unwrap_or(Framing::UntilClose),
        }
    }

    /// Whether the connection ends after this message.
    pub fn closes(&self) -> bool {
        let connection = self.header("connection").unwrap_or_default().to_ascii_lowercase();
        connection.contains("close") || (self.line.contains("HTTP/1.0") && !connection.contains("keep-alive"))
    }

    fn declared(&self) -> Option<Framing> {
        if self.header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked")) {
            return Some(Framing::Chunked);
        }
        self.header("content-length").and_then(|v| v.parse().ok()).map(Framing::Length)
    }
}

/// How the end of a body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A body of this number of bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// All bytes until the end of the connection.
    UntilClose,
}

/// Reads a body to its end: `raw` gets the bytes as they came, `payload` those of the body itself.
pub fn read_body(
    from: &mut impl BufRead,
    framing: Framing,
    raw: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    payload: &mut dyn FnMut(&[u8]),
) -> io::Result<()> {
    match framing {
        Framing::Length(n) => read_exactly(from, n, raw, payload),
        Framing::UntilClose => loop {
            let block = from.fill_buf()?;
            if block.is_empty() {
                return Ok(());
            }
            raw(block)?;
            payload(block);
            let n = block.len();
            from.consume(n);
        },
        Framing::Chunked => loop {
            let mut line = Vec::new();
            from.by_ref().take(4096).read_until(b'\n', &mut line)?;
            raw(&line)?;
            let text = String::from_utf8_lossy(&line);
            let size = text.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("chunk size {size:?}")))?;
            if size > 0 {
                read_exactly(from, size, raw, payload)?;
            }
            // The line end after a chunk; after the last, trailers up to an empty line.
            loop {
                let mut line = Vec::new();
                if from.by_ref().take(65536).read_until(b'\n', &mut line)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                raw(&line)?;
                if size > 0 || line == b"\r\n" || line == b"\n" {
                    break;
                }
            }
            if size == 0 {
                return Ok(());
            }
        },
    }
}

fn read_exactly(
    from: &mut impl BufRead,
    mut left: u64,
    raw: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    payload: &mut dyn FnMut(&[u8]),
) -> io::Result<()> {
    while left > 0 {
        let block = from.fill_buf()?;
        if block.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let n = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        raw(&block[..n])?;
        payload(&block[..n]);
        from.consume(n);
        left -= n as u64;
    }
    Ok(())
}

/// A complete response.
#[derive(Clone, Debug)]
pub struct Response {
    /// First line and headers.
    pub head: Head,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The status.
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The response itself when its status is 2xx.
    pub fn ok(self) -> Result<Self> {
        if !(200..300).contains(&self.status()) {
            bail!("{}\n{}", self.head.line, self.text());
        }
        Ok(self)
    }
}

/// `http://HOST:PORT/PATH` in its two parts; the second begins with `/`.
pub fn split_url(url: &str) -> Result<(&str, &str)> {
    let rest = url.strip_prefix("http://").with_context(|| format!("not an http URL: {url}"))?;
    let at = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    Ok((host, if path.is_empty() { "/" } else { path }))
}

/// Sends one request over a connection of its own.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
    let (host, path) = split_url(url)?;
    let mut stream = TcpStream::connect(host).with_context(|| format!("connecting to {host}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(180)))?;
    stream.set_nodelay(true)?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || matches!(method, "PUT" | "POST") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut reader = BufReader::new(stream);
    let head = loop {
        let head = Head::read(&mut reader)?.with_context(|| format!("{method} {url}: no response"))?;
        if head.status() >= 200 {
            break head;
        }
    };
    let mut body = Vec::new();
    let framing = head.response_framing(method);
    read_body(&mut reader, framing, &mut |_| Ok(()), &mut |block| body.extend_from_slice(block))?;
    Ok(Response { head, body })
}

/// An anonymous GET.
pub fn get(url: &str) -> Result<Response> {
    request("GET", url, &[], b"")
}

/// Percent-encodes a path, leaving `/` and what RFC 3986 calls unreserved.
pub fn encode_path(path: &str) -> String {
    encode(path, "-._~/")
}

/// Percent-encodes a query's name or value.
pub fn encode_query(value: &str) -> String {
    encode(value, "-._~")
}

fn encode(text: &str, plain: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || plain.as_bytes().contains(&b) {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// Decodes `%XX`.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let code = bytes
            .get(i + 1..i + 3)
            .and_then(|h| std::str::from_utf8(h).ok())
            .map(|h| u8::from_str_radix(h, 16));
        if let (b'%', Some(Ok(b))) = (bytes[i], code) {
            out.push(b);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
