//! Producing the object of a NAR: read, hash, compress, hash, cut into parts. Runs in a thread of its own.

use std::io::{self, Write};

use nix_derivation::nixbase32;
use tokio::sync::mpsc;

use super::budget::{Budget, Part, Share};
use super::buffer::Buffer;
use super::compress::{Compressor, Effort};
use super::pace::{MANY_THREADS_FROM, Pace};
use super::upload::Uploader;
use crate::base::error::{Area, Error, Result, Retry};
use crate::format::listing::ListingWriter;
use crate::format::path_info::PathInfo;
use crate::push::progress::Progress;
use crate::store::{Digested, HashingWriter, NarError, dump};

/// The usual size of a part: the least that S3 takes, so that what is pending is fine-grained.
pub(crate) const PART: u64 = 5 << 20;
/// S3 takes 10,000 parts; a margin for streams that compression makes longer.
const PARTS: u64 = 9_500;

/// The size of the parts of a NAR's object.
fn part_size(nar_size: u64) -> u64 {
    (nar_size / PARTS).max(PART).next_multiple_of(1 << 20)
}

/// What the producing thread found out.
pub(crate) struct Produced {
    pub(crate) nar: Digested,
    pub(crate) file: Digested,
    pub(crate) listing: Option<String>,
    /// What did not fill a whole part.
    pub(crate) rest: Part,
}

impl Uploader {
    /// Reads, hashes and compresses a NAR, and hands over the full parts; blocks.
    pub(crate) fn produce(
        &self,
        info: &PathInfo,
        sender: &mpsc::Sender<Part>,
        runtime: &tokio::runtime::Handle,
        progress: &dyn Progress,
    ) -> Result<Produced> {
        let size = part_size(info.nar_size);
        let sink = PartSink {
            // Incompressible data grows a little.
            part_size: size.min(info.nar_size + info.nar_size / 128 + 4096),
            filling: None,
            sender,
            runtime,
            budget: &self.budget,
        };
        let cannot = |error: io::Error| {
            Error::new(Area::Store, Retry::Unknown, format!("cannot compress `{}`", info.path.to_basename()))
                .because(error)
        };
        // A small NAR is one frame of known size; a larger one is looked after while it passes.
        let size = (info.nar_size < MANY_THREADS_FROM).then_some(info.nar_size);
        let effort = self.pace.effort(info.nar_size);
        let out =
            Compressor::new(self.pace.settings(), effort, size, &self.contexts, HashingWriter::new(sink))
                .map_err(cannot)?;
        let meter = Meter { pace: &self.pace, progress, passed: 0, reported: 0 };
        let mut tee = HashingWriter::new(Tee {
            out: Paced { out, meter, nar_size: info.nar_size },
            listing: self.listing.then(ListingWriter::new),
            left: info.nar_size,
            too_long: false,
            progress,
        });
        match dump(&self.store, &info.path, &mut tee) {
            Ok(()) => {}
            // Reading stopped where the NAR grew longer than promised.
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
        // A listing is an extra: without one, the path is pushed all the same.
        let listing = tee.listing.and_then(|listing| listing.finish().ok());
        Ok(Produced { nar, file, listing, rest })
    }
}

/// The error of a path whose files are not where they should be. Whether the path itself is gone only the store can
/// tell.
fn gone(info: &PathInfo) -> Error {
    Error::new(
        Area::Store,
        Retry::Unknown,
        format!("the files of `{}` are not there", info.path.to_basename()),
    )
    .hint("is the store mounted, and `real-store-dir` right?")
}

/// The error of a path whose contents are not what the store promises.
pub(crate) fn corrupt(info: &PathInfo, found: &Digested) -> Error {
    let name = info.path.to_basename();
    Error::permanent(Area::Store, format!("`{name}` is corrupt"))
        .because(format!(
            "the store promises a NAR of {} bytes with hash {}, its files make {} bytes with hash {}",
            info.nar_size,
            info.nar_hash_nix32(),
            found.size,
            nixbase32::encode(&found.sha256)
        ))
        .hint("`nix-store --repair-path` or `nix store repair` mends it, then `larder retry` pushes it")
}

/// Cuts a stream into parts and hands the full ones to the async side.
struct PartSink<'a> {
    part_size: u64,
    /// The part that is being filled, with its share of the budget.
    filling: Option<(Buffer, Share)>,
    sender: &'a mpsc::Sender<Part>,
    runtime: &'a tokio::runtime::Handle,
    budget: &'a Budget,
}

impl PartSink<'_> {
    /// The part that is being filled.
    fn filling(&mut self) -> io::Result<&mut Buffer> {
        let part = match self.filling.take() {
            Some(part) => part,
            None => {
                let share =
                    self.runtime.block_on(self.budget.take(self.part_size)).map_err(io::Error::other)?;
                (Buffer::new(usize::try_from(self.part_size).unwrap_or(usize::MAX))?, share)
            }
        };
        Ok(&mut self.filling.insert(part).0)
    }

    /// Hands over a full part.
    fn send(&mut self) -> io::Result<()> {
        self.sender.blocking_send(self.rest()).map_err(|_| io::Error::other("the upload was given up"))
    }

    /// What has been filled so far; empty where that is nothing.
    fn rest(&mut self) -> Part {
        match self.filling.take() {
            Some((buffer, share)) => Part::new(buffer.into_bytes(), share),
            None => Part::default(),
        }
    }
}

impl Write for PartSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let buffer = self.filling()?;
        let count = buffer.fill(bytes);
        if buffer.is_full() {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much of a NAR passes before it is asked again how hard it is to be compressed.
const PACED: u64 = 4 << 20;

/// A compressor that keeps to the pace.
struct Paced<'a, 'b> {
    out: Compressor<HashingWriter<PartSink<'b>>>,
    meter: Meter<'a>,
    nar_size: u64,
}

impl<'b> Paced<'_, 'b> {
    fn finish(mut self) -> io::Result<HashingWriter<PartSink<'b>>> {
        let effort = self.out.effort();
        let sink = self.out.finish()?;
        self.meter.report(sink.size(), effort);
        Ok(sink)
    }
}

impl Write for Paced<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.meter.passed += bytes.len() as u64;
        if self.meter.passed >= PACED {
            let effort = self.out.effort();
            let size = self.out.get_mut().map_or(self.meter.reported, |sink| sink.size());
            self.meter.report(size, effort);
            self.out.change(self.meter.pace.effort(self.nar_size))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Tells what the compressor does, to who sets the pace and to who watches.
struct Meter<'a> {
    pace: &'a Pace,
    progress: &'a dyn Progress,
    /// Bytes of the NAR since the last report.
    passed: u64,
    /// Bytes of the object until the last report.
    reported: u64,
}

impl Meter<'_> {
    fn report(&mut self, size: u64, effort: Effort) {
        self.pace.look();
        self.progress.compressed(std::mem::take(&mut self.passed), size - self.reported, effort);
        self.reported = size;
    }
}

/// Passes a NAR on to the compressor and, where wanted, to the listing; never more of it than was promised.
struct Tee<'a, W> {
    out: W,
    listing: Option<ListingWriter>,
    left: u64,
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
