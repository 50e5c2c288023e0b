//! A directory as a bucket, and a static web server in front of one.

use crate::http::{Head, decode};
use crate::ports;
use anyhow::Result;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tempfile::TempDir;

/// An empty directory and a web server that serves it.
#[derive(Debug)]
pub struct Directory {
    dir: TempDir,
    server: FileServer,
}

impl Directory {
    /// Creates a directory and starts its server.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let server = FileServer::start(dir.path())?;
        Ok(Self { dir, server })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Its address as a bucket, `file:///…`.
    pub fn file_url(&self) -> String {
        format!("file://{}", self.dir.path().display())
    }

    /// Its address as a binary cache, `http://HOST:PORT`.
    pub fn public_base(&self) -> String {
        self.server.url()
    }
}

/// A static web server: GET and HEAD, ranges, 404 for missing files. A thread per connection.
#[derive(Debug)]
pub struct FileServer {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl FileServer {
    /// Serves the files below `root`.
    pub fn start(root: &Path) -> Result<Self> {
        let listener = ports::listen(ports::free())?;
        let address = listener.local_addr()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (root, stop) = (root.to_owned(), stopping.clone());
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let root = root.clone();
                if let Ok(stream) = stream {
                    std::thread::spawn(move || serve(&stream, &root));
                }
            }
        });
        Ok(Self { address, stopping, acceptor: Some(acceptor) })
    }

    /// `http://HOST:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn serve(mut stream: &TcpStream, root: &Path) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(head) = Head::read(&mut reader)? {
        let method = head.word(0);
        let path = head.word(1).split('?').next().unwrap_or_default();
        let found = (method == "GET" || method == "HEAD").then(|| open(root, path)).flatten();
        let Some((mut file, size)) = found else {
            let status =
                if matches!(method, "GET" | "HEAD") { "404 Not Found" } else { "405 Method Not Allowed" };
            // An unread body of a request would be read as the next request.
            let close = if status.starts_with("404") { "" } else { "Connection: close\r\n" };
            stream.write_all(format!("HTTP/1.1 {status}\r\n{close}Content-Length: 0\r\n\r\n").as_bytes())?;
            if close.is_empty() { continue } else { return Ok(()) }
        };
        let range = head.header("range").and_then(|r| parse_range(r, size));
        let (status, first, length) = match range {
            Some((first, last)) => ("206 Partial Content", first, last - first + 1),
            None => ("200 OK", 0, size),
        };
        let mut text = format!("HTTP/1.1 {status}\r\nAccept-Ranges: bytes\r\nContent-Length: {length}\r\n");
        if range.is_some() {
            text.push_str(&format!("Content-Range: bytes {first}-{}/{size}\r\n", first + length - 1));
        }
        text.push_str("\r\n");
        stream.write_all(text.as_bytes())?;
        if method == "GET" {
            file.seek(SeekFrom::Start(first))?;
            io::copy(&mut file.take(length), &mut stream)?;
        }
        if head.closes() {
            return Ok(());
        }
    }
    Ok(())
}

fn open(root: &Path, path: &str) -> Option<(File, u64)> {
    let relative = PathBuf::from(decode(path).trim_start_matches('/'));
    if !relative.components().all(|c| matches!(c, Component::Normal(_))) {
        return None;
    }
    let file = File::open(root.join(relative)).ok()?;
    let metadata = file.metadata().ok()?;
    metadata.is_file().then_some((file, metadata.len()))
}

/// The first and last byte of `bytes=A-[B]`.
fn parse_range(range: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let last = last.parse().unwrap_or(u64::MAX).min(size.checked_sub(1)?);
    (first <= last).then_some((first, last))
}
