//! Compression of a NAR while it streams.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use zstd::stream::raw::{self, CParameter, Operation};
use zstd::stream::zio;

use crate::base::lock::lock;
use crate::format::object_keys::Compression;
use crate::push::progress::Effort;

/// How NARs are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The format.
    pub compression: Compression,
    /// The level.
    pub level: Level,
    /// How many threads may work on one large NAR.
    pub threads: u32,
}

/// How the level is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// zstd: by what limits the push, see `pace.rs`; xz has its usual one.
    Adaptive,
    /// This one.
    Fixed(i32),
}

const XZ_LEVEL: u32 = 6;
/// Level 1 with a table twice as large as its own: 4 % smaller for 5 % more time.
const FAST_TABLE: u32 = 15;
/// What one of several threads compresses at a time. Each holds this much as it was and as it became.
const JOB: u32 = 2 << 20;

/// A writer that compresses into `W`.
pub struct Compressor<W: Write> {
    /// `None` only after a failure.
    encoder: Option<Encoder<W>>,
    effort: Effort,
    /// Whether the one frame has promised its size.
    sized: bool,
}

enum Encoder<W: Write> {
    Zstd(Frame<W>),
    Xz(Box<liblzma::write::XzEncoder<W>>),
    None(W),
}

impl<W: Write> Compressor<W> {
    /// Starts compressing into `out`. With `size`, exactly so many bytes will come, and the effort stays.
    pub fn new(
        settings: Settings,
        effort: Effort,
        size: Option<u64>,
        contexts: &Arc<Contexts>,
        out: W,
    ) -> io::Result<Self> {
        let encoder = match settings.compression {
            Compression::Zstd => Encoder::Zstd(contexts.frame(effort, size, out)?),
            Compression::Xz => Encoder::Xz(Box::new(xz(settings, effort.threads, out)?)),
            Compression::None => Encoder::None(out),
        };
        Ok(Self { encoder: Some(encoder), effort, sized: size.is_some() })
    }

    /// Goes on with another effort. zstd ends its frame and begins another: a file is any number of them. Other formats
    /// do not change.
    pub fn change(&mut self, effort: Effort) -> io::Result<()> {
        if self.effort == effort || self.sized || !matches!(self.encoder, Some(Encoder::Zstd(_))) {
            return Ok(());
        }
        if let Some(Encoder::Zstd(frame)) = self.encoder.take() {
            let contexts = frame.contexts.clone();
            self.encoder = Some(Encoder::Zstd(contexts.frame(effort, None, frame.finish()?)?));
            self.effort = effort;
        }
        Ok(())
    }

    /// What is being spent.
    pub fn effort(&self) -> Effort {
        self.effort
    }

    /// Where it goes.
    pub fn get_mut(&mut self) -> Option<&mut W> {
        Some(match self.encoder.as_mut()? {
            Encoder::Zstd(frame) => frame.writer.writer_mut(),
            Encoder::Xz(encoder) => encoder.get_mut(),
            Encoder::None(out) => out,
        })
    }

    /// Ends the stream and hands the sink back.
    pub fn finish(self) -> io::Result<W> {
        match self.encoder.ok_or_else(failed)? {
            Encoder::Zstd(frame) => frame.finish(),
            Encoder::Xz(encoder) => encoder.finish(),
            Encoder::None(out) => Ok(out),
        }
    }
}

/// A frame of zstd that is being written.
struct Frame<W: Write> {
    writer: zio::Writer<W, raw::Encoder<'static>>,
    threads: u32,
    large: bool,
    contexts: Arc<Contexts>,
}

impl<W: Write> Frame<W> {
    fn finish(mut self) -> io::Result<W> {
        self.writer.finish()?;
        let (out, context) = self.writer.into_inner();
        if self.large {
            self.contexts.kept().push((self.threads, context));
        }
        Ok(out)
    }
}

/// What compressors of large NARs have worked in, to be used again: tens of megabytes each, which the allocator would
/// keep in each thread's own heap when they are freed.
#[derive(Default)]
pub struct Contexts(Mutex<Vec<(u32, raw::Encoder<'static>)>>);

impl Contexts {
    fn kept(&self) -> MutexGuard<'_, Vec<(u32, raw::Encoder<'static>)>> {
        lock(&self.0)
    }

    /// Begins a frame. With the size known, small inputs get small windows, and the frame tells it to readers.
    fn frame<W: Write>(self: &Arc<Self>, effort: Effort, size: Option<u64>, out: W) -> io::Result<Frame<W>> {
        let large = size.is_none();
        // One that has worked with other numbers of threads holds memory for those, too.
        let kept = if large { self.kept().pop() } else { None };
        let mut context = match kept.filter(|(threads, _)| *threads == effort.threads) {
            Some((_, context)) => context,
            None => raw::Encoder::new(effort.level)?,
        };
        context.reinit()?;
        context.set_parameter(CParameter::CompressionLevel(effort.level))?;
        // 0 is the level's own.
        context.set_parameter(CParameter::HashLog(if effort.level == 1 { FAST_TABLE } else { 0 }))?;
        context.set_parameter(CParameter::EnableLongDistanceMatching(effort.reach.is_some()))?;
        context.set_parameter(CParameter::WindowLog(effort.reach.unwrap_or(0)))?;
        if effort.threads > 1 {
            context.set_parameter(CParameter::NbWorkers(effort.threads))?;
            context.set_parameter(CParameter::JobSize(JOB))?;
        }
        context.set_pledged_src_size(size)?;
        let writer = zio::Writer::new(out, context);
        Ok(Frame { writer, threads: effort.threads, large, contexts: self.clone() })
    }
}

impl std::fmt::Debug for Contexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contexts").field("kept", &self.kept().len()).finish()
    }
}

fn xz<W: Write>(settings: Settings, threads: u32, out: W) -> io::Result<liblzma::write::XzEncoder<W>> {
    let level = match settings.level {
        Level::Adaptive => XZ_LEVEL,
        Level::Fixed(level) => u32::try_from(level).unwrap_or(XZ_LEVEL),
    };
    let check = liblzma::stream::Check::Crc64;
    let stream = if threads > 1 {
        liblzma::stream::MtStreamBuilder::new().threads(threads).preset(level).check(check).encoder()
    } else {
        liblzma::stream::Stream::new_easy_encoder(level, check)
    };
    Ok(liblzma::write::XzEncoder::new_stream(out, stream.map_err(io::Error::other)?))
}

fn failed() -> io::Error {
    io::Error::other("compression has failed already")
}

impl<W: Write> std::fmt::Debug for Compressor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("effort", &self.effort).finish_non_exhaustive()
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.encoder.as_mut().ok_or_else(failed)? {
            Encoder::Zstd(frame) => frame.writer.write(bytes),
            Encoder::Xz(encoder) => encoder.write(bytes),
            Encoder::None(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.encoder.as_mut().ok_or_else(failed)? {
            Encoder::Zstd(frame) => frame.writer.flush(),
            Encoder::Xz(encoder) => encoder.flush(),
            Encoder::None(out) => out.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings =
        Settings { compression: Compression::Zstd, level: Level::Adaptive, threads: 2 };

    fn effort(level: i32, threads: u32, reach: Option<u32>) -> Effort {
        Effort { level, threads, reach }
    }

    /// Bytes that repeat themselves at a distance of a megabyte.
    fn sample() -> Vec<u8> {
        let mut state = 1_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let once: Vec<u8> = (0..1 << 20).map(|_| noise()).collect();
        once.repeat(6)
    }

    #[test]
    fn an_effort_that_changes_makes_one_file() {
        let (bytes, contexts) = (sample(), Arc::new(Contexts::default()));
        let efforts =
            [effort(1, 1, None), effort(3, 1, Some(22)), effort(3, 2, Some(22)), effort(1, 1, None)];
        for _ in 0..3 {
            let mut out = Compressor::new(SETTINGS, efforts[0], None, &contexts, Vec::new()).unwrap();
            for (piece, effort) in bytes.chunks(bytes.len() / 4 + 1).zip(efforts) {
                out.change(effort).unwrap();
                assert_eq!(out.effort(), effort);
                out.write_all(piece).unwrap();
            }
            let file = out.finish().unwrap();
            assert!(zstd::decode_all(&*file).unwrap() == bytes);
            assert_eq!(contexts.kept().len(), 1, "one context does for one NAR at a time");
        }
    }

    #[test]
    fn a_context_keeps_nothing_of_the_effort_before() {
        let (bytes, contexts) = (sample(), Arc::new(Contexts::default()));
        let size = |effort| {
            let mut out = Compressor::new(SETTINGS, effort, None, &contexts, Vec::new()).unwrap();
            out.write_all(&bytes).unwrap();
            out.finish().unwrap().len()
        };
        let near = size(effort(1, 1, None));
        let far = size(effort(1, 1, Some(22)));
        assert!(far * 3 < near, "{far} {near}: what repeats itself far away is found");
        assert_eq!(size(effort(1, 1, None)), near);
    }

    #[test]
    fn a_frame_of_known_size_tells_it_and_stays() {
        let bytes = b"some bytes".repeat(1000);
        let (contexts, size) = (Arc::default(), Some(bytes.len() as u64));
        let mut out = Compressor::new(SETTINGS, effort(1, 1, None), size, &contexts, Vec::new()).unwrap();
        out.write_all(&bytes[..5000]).unwrap();
        out.change(effort(6, 1, None)).unwrap();
        out.write_all(&bytes[5000..]).unwrap();
        let file = out.finish().unwrap();
        assert_eq!(zstd::zstd_safe::get_frame_content_size(&file).unwrap(), size);
        assert_eq!(zstd::decode_all(&*file).unwrap(), bytes);
        assert!(contexts.kept().is_empty());
    }
}
