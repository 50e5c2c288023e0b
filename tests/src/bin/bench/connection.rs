//! A keep-alive connection to an S3 server.

use std::io::{BufReader, Write};
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use larder_tests::http::{Head, encode_path, read_body, split_url};
use larder_tests::s3::{Client, Signer};
use md5::{Digest, Md5};

/// Bodies up to this size are sent in one write with the head of the request.
const SMALL_BODY: usize = 64 << 10;

/// A connection. It transmits one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
    signer: Signer,
}

impl Connection {
    /// Connects to the endpoint of the client.
    pub(crate) fn open(client: &Client) -> Result<Self> {
        let (host, _) = split_url(&client.endpoint)?;
        Ok(Self { stream: connect(host)?, host: host.to_owned(), signer: client.signer() })
    }

    /// Sends a request and returns the body of the response. `path` is not encoded, `query` is encoded; `hash` is the
    /// SHA-256 of `body` in hexadecimal. A status other than 2xx is an error.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        query: &str,
        hash: &str,
        body: &[u8],
    ) -> Result<Vec<u8>> {
        let path = encode_path(path);
        let separator = if query.is_empty() { "" } else { "?" };
        let mut head = format!("{method} {path}{separator}{query} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in self.signer.sign(method, &self.host, &path, query, hash)? {
            head += &format!("{name}: {value}\r\n");
        }
        if method == "POST" {
            // Servers refuse a deletion of many objects without a checksum.
            head += &format!("Content-MD5: {}\r\n", BASE64.encode(Md5::digest(body)));
        }
        let mut bytes = format!("{head}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        let stream = self.stream.get_mut();
        if body.len() <= SMALL_BODY {
            bytes.extend_from_slice(body);
            stream.write_all(&bytes)?;
        } else {
            stream.write_all(&bytes)?;
            stream.write_all(body)?;
        }
        let head = Head::read(&mut self.stream)?.with_context(|| {
            format!("{method} {path}: the server closed the connection without a response")
        })?;
        let mut response = Vec::new();
        let mut take = |block: &[u8]| response.extend_from_slice(block);
        read_body(&mut self.stream, head.response_framing(method), &mut |_| Ok(()), &mut take)?;
        let status = head.status();
        ensure!(
            (200..300).contains(&status),
            "{method} {path}: {status} {}",
            String::from_utf8_lossy(&response)
        );
        if head.closes() {
            self.stream = connect(&self.host)?;
        }
        Ok(response)
    }
}

fn connect(host: &str) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(host).with_context(|| format!("connecting to {host}"))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}
