//! Produces the object of a NAR: reads and hashes the NAR, compresses it, hashes the object, and cuts it into parts.
//! Each NAR is produced in its own thread.

use std::io::{self, Write};
use std::sync::Arc;

use nix_derivation::nixbase32;
use tokio::sync::mpsc;

use super::adaptive_compressor::AdaptiveCompressor;
use super::budget::{Budget, Part};
use super::compress::{Compressor, ContextPool};
use super::effort_control::{EffortControl, MANY_THREADS_FROM};
use super::part_sink::PartSink;
use crate::base::error::{Area, Error, Result, Retry};
use crate::format::listing::ListingWriter;
use crate::format::path_info::PathInfo;
use crate::push::progress::Progress;
use crate::store::{Digested, HashingWriter, NarError, StoreLocation, dump};

/// The result of reading a NAR.
pub(super) struct Produced {
    /// Hash and size of the NAR that was read.
    pub(super) nar: Digested,
    /// Hash and size of the object.
    pub(super) file: Digested,
    /// The listing; `None` when listings are off, and when the NAR has a form that no listing can show.
    pub(super) listing: Option<String>,
    /// The last part, which is not full.
    pub(super) rest: Part,
}

/// Writes a NAR. An error of the writer that it is given is a [`NarError::Sink`].
pub type WriteNar = Box<dyn FnOnce(&mut dyn Write) -> std::result::Result<(), NarError> + Send>;

/// Where the bytes of a NAR come from.
pub enum NarOrigin {
    /// The local store.
    Store,
    /// Somewhere else. The bytes are compared with the path info in any case.
    Elsewhere(WriteNar),
}

/// Produces the objects of NARs.
#[derive(Clone, Debug)]
pub(super) struct Producer {
    /// The store that is read.
    pub(super) store: Arc<StoreLocation>,
    /// The settings of compression, and the effort for each NAR.
    pub(super) effort_control: Arc<EffortControl>,
    /// The zstd contexts that large NARs use again.
    pub(super) contexts: Arc<ContextPool>,
    /// The memory for parts.
    pub(super) budget: Budget,
    /// Whether a listing is made of each NAR.
    pub(super) listing: bool,
}

impl Producer {
    /// Reads, hashes and compresses a NAR, and hands the full parts to `sender`. The call blocks.
    ///
    /// # Errors
    /// Errors of the store: the files cannot be read, or are not the NAR that the store promises.
    pub(super) fn produce(
        &self,
        info: &PathInfo,
        origin: NarOrigin,
        sender: &mpsc::Sender<Part>,
        runtime: &tokio::runtime::Handle,
        progress: &dyn Progress,
    ) -> Result<Produced> {
        let sink = PartSink::new(info.nar_size, sender, runtime, &self.budget);
        let cannot = |error: io::Error| {
            Error::new(Area::Store, Retry::Unknown, format!("cannot compress `{}`", info.path.to_basename()))
                .because(error)
        };
        let mut tee = HashingWriter::new(Tee {
            out: self.compressor(info, sink, progress).map_err(cannot)?,
            listing: self.listing.then(ListingWriter::new),
            left: info.nar_size,
            too_long: false,
            progress,
        });
        let read = match origin {
            NarOrigin::Store => dump(&self.store, &info.path, &mut tee),
            NarOrigin::Elsewhere(write) => write(&mut tee),
        };
        match read {
            Ok(()) => {}
            // The NAR is longer than the store promises, so `Tee` has stopped the reader.
            Err(NarError::Sink(_)) if tee.get_mut().too_long => {
                let (_, nar) = tee.finish();
                return Err(corrupt(info, &nar));
            }
            Err(NarError::Gone(_)) => return Err(gone(info)),
            Err(error) => return Err(error.into()),
        }
        let (tee, nar) = tee.finish();
        if nar.size != info.nar_size {
            return Err(corrupt(info, &nar));
        }
        let (mut sink, file) = tee.out.finish().map_err(cannot)?.finish();
        let rest = sink.rest();
        // A listing is optional: larder also pushes a path without it.
        let listing = tee.listing.and_then(|listing| listing.finish().ok());
        Ok(Produced { nar, file, listing, rest })
    }

    /// A compressor for a NAR, which writes the object into `sink`.
    fn compressor<'a>(
        &'a self,
        info: &PathInfo,
        sink: PartSink<'a>,
        progress: &'a dyn Progress,
    ) -> io::Result<AdaptiveCompressor<'a, 'a>> {
        // A small NAR is one frame of known size. For a larger NAR, the effort changes while it is compressed.
        let size = (info.nar_size < MANY_THREADS_FROM).then_some(info.nar_size);
        let (settings, effort) = (self.effort_control.settings(), self.effort_control.effort(info.nar_size));
        let out = Compressor::new(settings, effort, size, &self.contexts, HashingWriter::new(sink))?;
        Ok(AdaptiveCompressor::new(out, &self.effort_control, progress, info.nar_size))
    }
}

/// The error of a path whose files are missing. Only the store can tell whether the path itself is gone.
fn gone(info: &PathInfo) -> Error {
    Error::new(Area::Store, Retry::Unknown, format!("the files of `{}` are missing", info.path.to_basename()))
        .hint("is the store mounted, and `real-store-dir` right?")
}

/// The error of a path whose files are not the NAR that the store promises.
pub(super) fn corrupt(info: &PathInfo, found: &Digested) -> Error {
    let name = info.path.to_basename();
    Error::permanent(Area::Store, format!("`{name}` is corrupt"))
        .because(format!(
            "the store promises a NAR of {} bytes with hash {}, its files make {} bytes with hash {}",
            info.nar_size,
            info.nar_hash_nix32(),
            found.size,
            nixbase32::encode(&found.sha256)
        ))
        .hint("`nix-store --repair-path` or `nix store repair` repairs it, then `larder retry` pushes it")
}

/// Passes a NAR to the compressor and, when listings are on, to the listing writer. A write fails when the NAR is
/// longer than the store promises.
struct Tee<'a, W> {
    out: W,
    listing: Option<ListingWriter>,
    /// The bytes of the NAR that are still to come.
    left: u64,
    /// Whether the NAR is longer than the store promises.
    too_long: bool,
    progress: &'a dyn Progress,
}

impl<W: Write> Write for Tee<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len() as u64;
        if length > self.left {
            self.too_long = true;
            return Err(io::Error::other("longer than promised"));
        }
        self.left -= length;
        self.out.write_all(bytes)?;
        if self.listing.as_mut().is_some_and(|listing| listing.write_all(bytes).is_err()) {
            self.listing = None;
        }
        self.progress.advanced(length);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
