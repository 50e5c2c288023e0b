//! The client of the Nix daemon: the operations that larder needs, in the protocol versions 1.34 to 1.38.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
#[cfg(any(test, feature = "fuzzing"))]
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix_derivation::{StoreDir, StorePath};

use super::connection::Connection;
use super::conversation::{Conversation, start_reply};
use super::handshake::Server;
use super::protocol_error::ProtocolError;
use super::reply::{copy_nar, optional_path, read_path_info, read_paths, store_path};
use super::wire::{read_list, read_string, read_text, read_u64, write_bytes, write_strings, write_u64};
use crate::base::error::{Area, Error, Result, Retry};
use crate::format::path_info::PathInfo;
use crate::store::closure::PathInfoSource;
use crate::store::location::StoreLocation;

/// The time that the daemon may be silent by default.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// The number of paths in one query for valid paths.
const VALID_PATHS_BATCH: usize = 10_000;

/// The numbers of the operations.
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

/// A connection to the Nix daemon. All operations block.
///
/// An error makes the connection unusable, because it is unknown what the daemon sends next. Every later operation
/// fails; connect again to go on.
pub struct Daemon {
    conversation: Conversation,
    store_dir: StoreDir,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon")
            .field("server", self.server())
            .field("broken", &self.is_broken())
            .finish_non_exhaustive()
    }
}

impl PathInfoSource for Daemon {
    fn path_infos(&mut self, paths: &[Arc<StorePath>]) -> Result<Vec<Option<PathInfo>>> {
        Daemon::path_infos(self, paths)
    }
}

impl Daemon {
    /// Connects with [`DEFAULT_TIMEOUT`].
    pub fn connect(location: &StoreLocation) -> Result<Self> {
        Self::connect_with(location, Some(DEFAULT_TIMEOUT))
    }

    /// Connects. `timeout` is the time that the daemon may be silent.
    ///
    /// # Errors
    /// The daemon cannot be reached, or larder would have to run a daemon for a store that does not exist.
    pub fn connect_with(location: &StoreLocation, timeout: Option<Duration>) -> Result<Self> {
        location.check_exists()?;
        let conversation = Conversation::open(&location.daemon, timeout)?;
        Ok(Self { conversation, store_dir: location.store_dir.clone() })
    }

    /// Begins a conversation with the daemon at the other end of an open stream.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn over(
        stream: UnixStream,
        location: &StoreLocation,
        timeout: Option<Duration>,
    ) -> Result<Self> {
        let conversation = Conversation::over(stream, &location.daemon, timeout)?;
        Ok(Self { conversation, store_dir: location.store_dir.clone() })
    }

    /// The facts that the daemon told in the handshake.
    pub fn server(&self) -> &Server {
        self.conversation.server()
    }

    /// Whether an error has made the connection unusable.
    pub fn is_broken(&self) -> bool {
        self.conversation.is_broken()
    }

    /// The path infos of the paths, in the same order; `None` for a path that is not valid.
    pub fn path_infos<P>(&mut self, paths: &[P]) -> Result<Vec<Option<PathInfo>>>
    where
        P: Borrow<StorePath> + Clone + Into<Arc<StorePath>>,
    {
        let store_dir = self.store_dir.clone();
        self.each_path("query path infos", op::QUERY_PATH_INFO, paths, |connection, path| {
            read_path_info(&mut connection.from, &store_dir, path.clone().into())
        })
    }

    /// The valid paths among `paths`.
    pub fn valid_paths<P: Borrow<StorePath>>(&mut self, paths: &[P]) -> Result<BTreeSet<StorePath>> {
        let (store_dir, mut valid) = (&self.store_dir, BTreeSet::new());
        for batch in paths.chunks(VALID_PATHS_BATCH) {
            valid.extend(self.conversation.exchange("query valid paths", |connection| {
                let asked: Vec<String> =
                    batch.iter().map(|path| store_dir.render_path(path.borrow())).collect();
                write_u64(&mut connection.to, op::QUERY_VALID_PATHS)?;
                write_strings(&mut connection.to, &asked)?;
                write_u64(&mut connection.to, 0)?; // no substitution
                start_reply(connection)?;
                read_paths(&mut connection.from, store_dir)
            })?);
        }
        Ok(valid)
    }

    /// All valid paths of the store.
    pub fn all_valid_paths(&mut self) -> Result<BTreeSet<StorePath>> {
        let store_dir = &self.store_dir;
        self.conversation.exchange("query all valid paths", |connection| {
            write_u64(&mut connection.to, op::QUERY_ALL_VALID_PATHS)?;
            start_reply(connection)?;
            read_paths(&mut connection.from, store_dir)
        })
    }

    /// Checks that the store can show that a path is gone. An empty store shows nothing: a daemon makes such a store
    /// where the real store is not mounted. Asks for all valid paths, so call it only when no path was valid.
    ///
    /// # Errors
    /// The daemon cannot be asked, or the store has no valid path.
    pub fn check_not_empty(&mut self) -> Result<()> {
        if !self.all_valid_paths()?.is_empty() {
            return Ok(());
        }
        Err(Error::transient(Area::Store, format!("the nix store `{}` is empty", self.store_dir))
            .because("the daemon knows no valid path")
            .hint(
                "is the store mounted? a daemon that starts before the store is mounted makes an empty store",
            ))
    }

    /// Adds temporary roots: the paths stay in the store as long as this connection exists. The daemon does not check
    /// whether the paths are valid.
    pub fn add_temp_roots<P: Borrow<StorePath>>(&mut self, paths: &[P]) -> Result<()> {
        self.each_path("add temporary roots", op::ADD_TEMP_ROOT, paths, |connection, _| {
            read_u64(&mut connection.from).map(drop)
        })
        .map(drop)
    }

    /// Registers the symbolic link `link` as an indirect root: its target stays in the store until the link is removed.
    pub fn add_indirect_root(&mut self, link: &Path) -> Result<()> {
        self.conversation.exchange(&format!("add the root `{}`", link.display()), |connection| {
            write_u64(&mut connection.to, op::ADD_INDIRECT_ROOT)?;
            write_bytes(&mut connection.to, link.as_os_str().as_bytes())?;
            start_reply(connection)?;
            read_u64(&mut connection.from).map(drop)
        })
    }

    /// The roots of the garbage collector, each with the path that it keeps. The daemon may hide the names of the roots
    /// from clients that it does not trust.
    pub fn find_roots(&mut self) -> Result<Vec<(String, StorePath)>> {
        let store_dir = &self.store_dir;
        self.conversation.exchange("find the roots of the store", |connection| {
            write_u64(&mut connection.to, op::FIND_ROOTS)?;
            start_reply(connection)?;
            read_list(&mut connection.from, |from| {
                Ok((read_text(from)?, store_path(store_dir, &read_string(from)?)?))
            })
        })
    }

    /// The outputs of a derivation by name; `None` for an output whose path is not known yet.
    pub fn derivation_outputs(
        &mut self,
        derivation: &StorePath,
    ) -> Result<BTreeMap<String, Option<StorePath>>> {
        let store_dir = &self.store_dir;
        let derivation = store_dir.render_path(derivation);
        self.conversation.exchange(&format!("query the outputs of `{derivation}`"), |connection| {
            write_u64(&mut connection.to, op::QUERY_DERIVATION_OUTPUT_MAP)?;
            write_bytes(&mut connection.to, derivation.as_bytes())?;
            start_reply(connection)?;
            let outputs = read_list(&mut connection.from, |from| {
                Ok((read_string(from)?, optional_path(store_dir, &read_string(from)?)?))
            })?;
            Ok(outputs.into_iter().collect())
        })
    }

    /// The realisations of an output of a content-addressed derivation, `sha256:<hash>!<output>`, each as JSON. This
    /// operation exists in Nix up to 2.34. Use it only when Nix's feature `ca-derivations` is enabled: without the
    /// feature, older daemons (2.8 and 2.26 among them) fail an assertion and close the connection.
    pub fn realisation(&mut self, id: &str) -> Result<Vec<String>> {
        self.conversation.exchange(&format!("query the realisation `{id}`"), |connection| {
            write_u64(&mut connection.to, op::QUERY_REALISATION)?;
            write_bytes(&mut connection.to, id.as_bytes())?;
            start_reply(connection)?;
            read_list(&mut connection.from, read_string)
        })
    }

    /// Copies the NAR of a path to `out` and returns its length in bytes. The daemon does not say whether the NAR is
    /// complete: compare its hash and length with the path info.
    pub fn nar_from_path(&mut self, path: &StorePath, out: &mut dyn Write) -> Result<u64> {
        let path = self.store_dir.render_path(path);
        let mut sink_error = None;
        let copied = self.conversation.exchange(&format!("read the NAR of `{path}`"), |connection| {
            write_u64(&mut connection.to, op::NAR_FROM_PATH)?;
            write_bytes(&mut connection.to, path.as_bytes())?;
            start_reply(connection)?;
            copy_nar(&mut connection.from, |piece| {
                out.write_all(piece).map_err(|error| {
                    sink_error = Some(error);
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

    /// Performs the operation `op` on each path.
    fn each_path<T, P: Borrow<StorePath>>(
        &mut self,
        what: &str,
        op: u64,
        paths: &[P],
        reply: impl FnMut(&mut Connection, &P) -> Result<T, ProtocolError>,
    ) -> Result<Vec<T>> {
        let store_dir = &self.store_dir;
        let request = |bytes: &mut Vec<u8>, path: &P| {
            write_u64(bytes, op)?;
            write_bytes(bytes, store_dir.render_path(path.borrow()).as_bytes())
        };
        self.conversation.exchange_each(what, paths, request, reply)
    }
}

#[cfg(test)]
#[path = "operations_tests.rs"]
mod tests;
