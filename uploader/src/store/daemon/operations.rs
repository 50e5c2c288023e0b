//! A client of the Nix daemon: the operations that larder needs, in protocols 1.34 to 1.38.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};
use std::os::unix::ffi::OsStrExt;
#[cfg(any(test, feature = "fuzzing"))]
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix_derivation::{StoreDir, StorePath};

use super::connection::Connection;
use super::handshake::{HandshakeError, Server, handshake};
use super::stderr;
use super::wire::{
    ProtocolError, read_bool, read_list, read_string, read_text, read_u64, write_bytes, write_strings,
    write_u64,
};
use crate::base::error::{Area, Error, Result, Retry};
use crate::format::nar_scanner::Scanner;
use crate::format::path_info::PathInfo;
use crate::store::location::{DaemonAddress, StoreLocation};

/// How long the daemon may be silent before it is given up.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// The bytes of requests that are sent ahead of their replies. They fit into the smallest buffer that a pipe or a
/// socket has on any system, so that sending never waits for the daemon, which may be waiting for us to read.
const AHEAD: usize = 4096;

/// The paths of one question for validity.
const VALID_PATHS_BATCH: usize = 10_000;

/// The operations' numbers.
mod op {
    pub(super) const ADD_TEMP_ROOT: u64 = 11;
    pub(super) const ADD_INDIRECT_ROOT: u64 = 12;
    pub(super) const FIND_ROOTS: u64 = 14;
    pub(super) const QUERY_ALL_VALID_PATHS: u64 = 23;
    pub(super) const QUERY_PATH_INFO: u64 = 26;
    pub(super) const QUERY_VALID_PATHS: u64 = 31;
    pub(super) const NAR_FROM_PATH: u64 = 38;
    pub(super) const QUERY_DERIVATION_OUTPUT_MAP: u64 = 41;
    pub(super) const QUERY_REALISATION: u64 = 43;
}

/// A connection to the Nix daemon.
///
/// After any error the connection is unusable, for it is unknown what the daemon would send next: every later call
/// fails, and whoever wants to go on connects again.
pub struct Daemon {
    connection: Connection,
    server: Server,
    store_dir: StoreDir,
    timeout: Option<Duration>,
    broken: Option<String>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon")
            .field("server", &self.server)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl Daemon {
    /// Connects, with [`DEFAULT_TIMEOUT`].
    pub fn connect(location: &StoreLocation) -> Result<Self> {
        Self::connect_with(location, Some(DEFAULT_TIMEOUT))
    }

    /// Connects; `timeout` is how long the daemon may be silent.
    pub fn connect_with(location: &StoreLocation, timeout: Option<Duration>) -> Result<Self> {
        let connection = Connection::open(&location.daemon, timeout)?;
        Self::greet(connection, location, timeout)
    }

    fn greet(
        mut connection: Connection,
        location: &StoreLocation,
        timeout: Option<Duration>,
    ) -> Result<Self> {
        let server = handshake(&mut connection.from, &mut connection.to)
            .map_err(|error| no_conversation(&location.daemon, error, &mut connection))?;
        Ok(Self { connection, server, store_dir: location.store_dir.clone(), timeout, broken: None })
    }

    /// Greets whoever is at the other end.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn over(
        stream: UnixStream,
        location: &StoreLocation,
        timeout: Option<Duration>,
    ) -> Result<Self> {
        let connection = Connection::over(stream, timeout)
            .map_err(|error| Error::permanent(Area::Store, "cannot use a socket").because(error))?;
        Self::greet(connection, location, timeout)
    }

    /// What the daemon said of itself.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Whether an error has made the connection unusable.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// What the store knows of each path, in the same order; `None` where a path is not valid.
    pub fn path_infos<P>(&mut self, paths: &[P]) -> Result<Vec<Option<PathInfo>>>
    where
        P: Borrow<StorePath> + Clone + Into<Arc<StorePath>>,
    {
        let store_dir = self.store_dir.clone();
        self.each_path("query path infos", op::QUERY_PATH_INFO, paths, |connection, path| {
            let from = &mut connection.from;
            if !read_bool(from)? {
                return Ok(None);
            }
            Ok(Some(PathInfo {
                path: path.clone().into(),
                deriver: optional_path(&store_dir, &read_string(from)?)?,
                nar_hash: sha256(&read_string(from)?)?,
                references: read_list(&mut connection.from, |from| {
                    store_path(&store_dir, &read_string(from)?)
                })?
                .into_iter()
                .collect(),
                registration_time: read_u64(&mut connection.from)?,
                nar_size: read_u64(&mut connection.from)?,
                ultimate: read_bool(&mut connection.from)?,
                signatures: read_list(&mut connection.from, read_string)?.into(),
                ca: Some(read_string(&mut connection.from)?).filter(|ca| !ca.is_empty()),
            }))
        })
    }

    /// Those of the paths that are valid.
    pub fn valid_paths<P: Borrow<StorePath>>(&mut self, paths: &[P]) -> Result<BTreeSet<StorePath>> {
        let store_dir = self.store_dir.clone();
        let mut valid = BTreeSet::new();
        for batch in paths.chunks(VALID_PATHS_BATCH) {
            valid.extend(self.call("query valid paths", |connection| {
                let asked: Vec<String> =
                    batch.iter().map(|path| store_dir.render_path(path.borrow())).collect();
                write_u64(&mut connection.to, op::QUERY_VALID_PATHS)?;
                write_strings(&mut connection.to, &asked)?;
                write_u64(&mut connection.to, 0)?; // no substitution
                start_reply(connection)?;
                read_paths(connection, &store_dir)
            })?);
        }
        Ok(valid)
    }

    /// All valid paths of the store.
    pub fn all_valid_paths(&mut self) -> Result<BTreeSet<StorePath>> {
        let store_dir = self.store_dir.clone();
        self.call("query all valid paths", |connection| {
            write_u64(&mut connection.to, op::QUERY_ALL_VALID_PATHS)?;
            start_reply(connection)?;
            read_paths(connection, &store_dir)
        })
    }

    /// Keeps the paths in the store for as long as this connection lives. Whether they are valid is not asked.
    pub fn add_temp_roots<P: Borrow<StorePath>>(&mut self, paths: &[P]) -> Result<()> {
        self.each_path("add temporary roots", op::ADD_TEMP_ROOT, paths, |connection, _| {
            read_u64(&mut connection.from).map(drop)
        })
        .map(drop)
    }

    /// Registers the link `link` as a root: what it points at stays in the store until the link is gone.
    pub fn add_indirect_root(&mut self, link: &Path) -> Result<()> {
        self.call(&format!("add the root `{}`", link.display()), |connection| {
            write_u64(&mut connection.to, op::ADD_INDIRECT_ROOT)?;
            write_bytes(&mut connection.to, link.as_os_str().as_bytes())?;
            start_reply(connection)?;
            read_u64(&mut connection.from).map(drop)
        })
    }

    /// The roots of the garbage collector: where each is, and what it keeps. To clients that it does not trust the
    /// daemon may not tell where.
    pub fn find_roots(&mut self) -> Result<Vec<(String, StorePath)>> {
        let store_dir = self.store_dir.clone();
        self.call("find the store's roots", |connection| {
            write_u64(&mut connection.to, op::FIND_ROOTS)?;
            start_reply(connection)?;
            read_list(&mut connection.from, |from| {
                Ok((read_text(from)?, store_path(&store_dir, &read_string(from)?)?))
            })
        })
    }

    /// The outputs of a derivation by name; `None` where the path of one is not known yet.
    pub fn derivation_outputs(
        &mut self,
        derivation: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>> {
        let store_dir = self.store_dir.clone();
        let derivation = store_dir.render_path(derivation);
        self.call(&format!("query the outputs of `{derivation}`"), |connection| {
            write_u64(&mut connection.to, op::QUERY_DERIVATION_OUTPUT_MAP)?;
            write_bytes(&mut connection.to, derivation.as_bytes())?;
            start_reply(connection)?;
            let outputs = read_list(&mut connection.from, |from| {
                Ok((read_string(from)?, optional_path(&store_dir, &read_string(from)?)?))
            })?;
            Ok(outputs.into_iter().collect())
        })
    }

    /// The realisations of an output of a content-addressed derivation, `sha256:<hash>!<output>`, each as JSON. For
    /// Nix up to 2.34. Ask only where Nix's feature `ca-derivations` is on: without it, older daemons (2.8 and 2.26
    /// among them) fail an assertion and hang up.
    pub fn realisation(&mut self, id: &str) -> Result<Vec<String>> {
        self.call(&format!("query the realisation `{id}`"), |connection| {
            write_u64(&mut connection.to, op::QUERY_REALISATION)?;
            write_bytes(&mut connection.to, id.as_bytes())?;
            start_reply(connection)?;
            read_list(&mut connection.from, read_string)
        })
    }

    /// Copies a path's NAR to `out` and returns its length. The daemon does not say whether it is whole: compare its
    /// hash and length with those of the path info.
    pub fn nar_from_path(&mut self, path: &StorePath, out: &mut dyn Write) -> Result<u64> {
        let path = self.store_dir.render_path(path);
        let mut sink_error = None;
        let copied = self.call(&format!("read the NAR of `{path}`"), |connection| {
            write_u64(&mut connection.to, op::NAR_FROM_PATH)?;
            write_bytes(&mut connection.to, path.as_bytes())?;
            start_reply(connection)?;
            copy_nar(connection, |piece| {
                out.write_all(piece).map_err(|error| {
                    sink_error = Some(error.to_string());
                    ProtocolError::malformed("abandoned")
                })
            })
        });
        match sink_error {
            Some(cause) => {
                let what = format!("cannot pass on the NAR of `{path}`");
                Err(Error::new(Area::Store, Retry::Unknown, what).because(cause))
            }
            None => copied,
        }
    }

    /// The same operation on many paths: a few requests are sent ahead of their replies.
    fn each_path<T, P: Borrow<StorePath>>(
        &mut self,
        what: &str,
        op: u64,
        paths: &[P],
        mut reply: impl FnMut(&mut Connection, &P) -> Result<T, ProtocolError>,
    ) -> Result<Vec<T>> {
        let store_dir = self.store_dir.clone();
        let mut replies = Vec::with_capacity(paths.len());
        let (mut sent, mut request) = (0, Vec::new());
        while replies.len() < paths.len() {
            self.call(what, |connection| {
                let mut bytes = 0;
                while let Some(path) = paths.get(sent) {
                    request.clear();
                    write_u64(&mut request, op)?;
                    write_bytes(&mut request, store_dir.render_path(path.borrow()).as_bytes())?;
                    bytes += request.len();
                    if bytes > AHEAD && bytes > request.len() {
                        break;
                    }
                    connection.to.write_all(&request)?;
                    sent += 1;
                }
                connection.to.flush()?;
                for path in &paths[replies.len()..sent] {
                    stderr::drain(&mut connection.from)?;
                    replies.push(reply(connection, path)?);
                }
                Ok(())
            })?;
        }
        Ok(replies)
    }

    /// One exchange; an error in it makes the connection unusable.
    fn call<T>(
        &mut self,
        what: &str,
        exchange: impl FnOnce(&mut Connection) -> Result<T, ProtocolError>,
    ) -> Result<T> {
        if let Some(cause) = &self.broken {
            return Err(Error::transient(Area::Store, format!("cannot {what}"))
                .because(format!("the connection to the nix daemon failed earlier ({cause})"))
                .hint("connect to the daemon again"));
        }
        self.broken = Some("an operation was cut short".into());
        match exchange(&mut self.connection) {
            Ok(value) => {
                self.broken = None;
                Ok(value)
            }
            Err(error) => {
                self.broken = Some(error.to_string());
                Err(self.explain(what, error))
            }
        }
    }

    fn explain(&mut self, what: &str, error: ProtocolError) -> Error {
        let retry = match error {
            ProtocolError::Closed | ProtocolError::TimedOut | ProtocolError::Io(_) => Retry::Transient,
            ProtocolError::Malformed(_) | ProtocolError::Daemon(_) => Retry::Unknown,
        };
        let explained = Error::new(Area::Store, retry, format!("cannot {what}"));
        match error {
            ProtocolError::Closed => match self.connection.complaint() {
                Some(complaint) => explained.because(format!("{error}, saying: {complaint}")),
                None => explained.because(error).hint("was nix-daemon restarted? its log may tell more"),
            },
            ProtocolError::TimedOut => {
                let seconds = self.timeout.unwrap_or_default().as_secs_f32();
                explained
                    .because(format!("the nix daemon was silent for {seconds} s"))
                    .hint("does nix-daemon hang?")
            }
            ProtocolError::Malformed(_) => {
                let Server { nix_version, protocol, .. } = &self.server;
                explained.because(error).hint(format!(
                    "please report this, with the daemon's version, {nix_version} ({protocol})"
                ))
            }
            error => explained.because(error),
        }
    }
}

/// Why no conversation came about, with the way out.
fn no_conversation(address: &DaemonAddress, error: HandshakeError, connection: &mut Connection) -> Error {
    let place = match address {
        DaemonAddress::Socket(path) => path.display(),
        DaemonAddress::Stdio { program, .. } => program.display(),
    };
    let what = format!("cannot talk to the nix daemon at `{place}`");
    match error {
        HandshakeError::Version(_) => Error::permanent(Area::Store, what).because(error).hint(
            "larder works with nix 2.8 and later, and with lix; restart nix-daemon after an upgrade of nix",
        ),
        HandshakeError::NotNix(_) => Error::permanent(Area::Store, what).because(error),
        HandshakeError::Protocol(ProtocolError::Daemon(_)) => Error::permanent(Area::Store, what)
            .because(error)
            .hint("does `allowed-users` in the daemon's nix.conf name this user?"),
        HandshakeError::Protocol(ProtocolError::Malformed(_)) => {
            Error::new(Area::Store, Retry::Unknown, what).because(error)
        }
        HandshakeError::Protocol(_) => match connection.complaint() {
            Some(complaint) => Error::new(Area::Store, Retry::Unknown, what).because(complaint),
            // The daemon closes the connection at once to users that it does not allow.
            None => Error::transient(Area::Store, what)
                .because(error)
                .hint("does `allowed-users` in nix.conf name this user? the log of nix-daemon tells more"),
        },
    }
}

/// Sends what is written and reads up to the reply.
fn start_reply(connection: &mut Connection) -> Result<(), ProtocolError> {
    connection.to.flush()?;
    stderr::drain(&mut connection.from)
}

/// Copies exactly one NAR. (A decoder that looks for bytes after the NAR would wait for them in vain.)
fn copy_nar(
    connection: &mut Connection,
    mut pass_on: impl FnMut(&[u8]) -> Result<(), ProtocolError>,
) -> Result<u64, ProtocolError> {
    let mut scanner = Scanner::new();
    while !scanner.is_done() {
        let piece = connection.from.fill_buf()?;
        if piece.is_empty() {
            return Err(ProtocolError::Closed);
        }
        let before = scanner.offset();
        let scanned = scanner.push(piece, &mut ());
        let used = (scanner.offset() - before) as usize;
        if let Err(error) = scanned {
            connection.from.consume(used);
            // The daemon breaks off with an error where the length of the next token should be.
            return Err(match scanner.bad_length() {
                Some(stderr::ERROR) => match stderr::read_error(&mut connection.from) {
                    Ok(message) => ProtocolError::Daemon(message),
                    Err(error) => error,
                },
                _ => ProtocolError::malformed(format!("the NAR is broken, {error}")),
            });
        }
        pass_on(&piece[..used])?;
        connection.from.consume(used);
    }
    Ok(scanner.offset())
}

fn read_paths(
    connection: &mut Connection,
    store_dir: &StoreDir,
) -> Result<BTreeSet<StorePath>, ProtocolError> {
    let paths = read_list(&mut connection.from, |from| store_path(store_dir, &read_string(from)?))?;
    Ok(paths.into_iter().collect())
}

fn store_path(store_dir: &StoreDir, text: &str) -> Result<StorePath, ProtocolError> {
    store_dir.parse_path(text.as_bytes()).map_err(|error| {
        ProtocolError::malformed(format!("`{text}` is no path of the store `{store_dir}`: {error}"))
    })
}

fn optional_path(store_dir: &StoreDir, text: &str) -> Result<Option<StorePath>, ProtocolError> {
    if text.is_empty() { Ok(None) } else { store_path(store_dir, text).map(Some) }
}

/// A SHA-256 in base 16.
fn sha256(text: &str) -> Result<[u8; 32], ProtocolError> {
    let mut hash = [0; 32];
    let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
    let well_formed = digits.len() == 64
        && digits.chunks(2).zip(&mut hash).all(|(pair, byte)| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'));
            pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).map(|value| *byte = value).is_some()
        });
    if well_formed {
        Ok(hash)
    } else {
        Err(ProtocolError::malformed(format!("`{text}` is no SHA-256 in base 16")))
    }
}

#[cfg(test)]
#[path = "operations_tests.rs"]
mod tests;
