//! Compresses a NAR as a stream.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use zstd::stream::raw::{self, CParameter, Operation};
use zstd::stream::zio;

use crate::base::lock::lock;
use crate::format::object_keys::Compression;
use crate::push::progress::Effort;

/// The settings for the compression of NARs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The format.
    pub compression: Compression,
    /// The level.
    pub level: Level,
    /// The largest number of threads for one large NAR.
    pub threads: u32,
}

/// The level of compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For zstd, the level follows the bottleneck of the push (see `effort_control.rs`). For xz, it is [`XZ_LEVEL`].
    Adaptive,
    /// This level.
    Fixed(i32),
}

/// The default level of xz.
const XZ_LEVEL: u32 = 6;
/// The hash log of zstd at level 1. The table is twice as large as the default of the level: objects are 4 % smaller
/// for 5 % more time.
const LEVEL_1_HASH_LOG: u32 = 15;
/// The number of bytes that a thread compresses at a time, when several threads share a NAR. Each thread keeps this
/// number of bytes, and their compressed form, in memory.
const JOB_SIZE: u32 = 2 << 20;

/// A writer that compresses into `W`.
pub struct Compressor<W: Write> {
    /// `None` only after a failure.
    encoder: Option<Encoder<W>>,
    effort: Effort,
    /// Whether the frame header holds the size of the NAR, so that the frame must hold the whole NAR.
    sized: bool,
}

enum Encoder<W: Write> {
    Zstd(Frame<W>),
    Xz(Box<liblzma::write::XzEncoder<W>>),
    None(W),
}

impl<W: Write> Compressor<W> {
    /// Begins to compress into `out`. With `size`, the caller must write exactly this number of bytes, and the effort
    /// does not change.
    ///
    /// # Errors
    /// When the compression library has no memory, or does not accept a parameter.
    pub fn new(
        settings: Settings,
        effort: Effort,
        size: Option<u64>,
        contexts: &Arc<ContextPool>,
        out: W,
    ) -> io::Result<Self> {
        let encoder = match settings.compression {
            Compression::Zstd => Encoder::Zstd(contexts.frame(effort, size, out)?),
            Compression::Xz => Encoder::Xz(Box::new(xz(settings, effort.threads, out)?)),
            Compression::None => Encoder::None(out),
        };
        Ok(Self { encoder: Some(encoder), effort, sized: size.is_some() })
    }

    /// Changes the effort. zstd ends the frame and begins another: a file consists of any number of frames. For other
    /// formats, and for a frame of known size, the effort stays.
    ///
    /// # Errors
    /// When `W` fails, or the compression library.
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

    /// The current effort.
    pub fn effort(&self) -> Effort {
        self.effort
    }

    /// The writer that receives the compressed bytes; `None` after a failure.
    pub fn get_mut(&mut self) -> Option<&mut W> {
        Some(match self.encoder.as_mut()? {
            Encoder::Zstd(frame) => frame.writer.writer_mut(),
            Encoder::Xz(encoder) => encoder.get_mut(),
            Encoder::None(out) => out,
        })
    }

    /// Ends the stream. The result is the writer that received the compressed bytes.
    ///
    /// # Errors
    /// When `W` fails, or the compressor has failed before.
    pub fn finish(self) -> io::Result<W> {
        match self.encoder.ok_or_else(failed)? {
            Encoder::Zstd(frame) => frame.finish(),
            Encoder::Xz(encoder) => encoder.finish(),
            Encoder::None(out) => Ok(out),
        }
    }
}

/// A zstd frame that is being written.
struct Frame<W: Write> {
    writer: zio::Writer<W, raw::Encoder<'static>>,
    threads: u32,
    /// Whether the context returns to the pool when the frame ends.
    large: bool,
    contexts: Arc<ContextPool>,
}

impl<W: Write> Frame<W> {
    fn finish(mut self) -> io::Result<W> {
        self.writer.finish()?;
        let (out, context) = self.writer.into_inner();
        if self.large {
            self.contexts.lock().push((self.threads, context));
        }
        Ok(out)
    }
}

/// A pool of zstd contexts for large NARs. A context takes tens of megabytes. When a context is freed, the allocator
/// keeps its memory in the heap of the thread, so contexts are used again instead. Each context stands beside the
/// number of threads that it was used with.
#[derive(Default)]
pub struct ContextPool(Mutex<Vec<(u32, raw::Encoder<'static>)>>);

impl ContextPool {
    fn lock(&self) -> MutexGuard<'_, Vec<(u32, raw::Encoder<'static>)>> {
        lock(&self.0)
    }

    /// Begins a frame. With `size`, a small input gets a small window, and the frame header holds the size.
    fn frame<W: Write>(self: &Arc<Self>, effort: Effort, size: Option<u64>, out: W) -> io::Result<Frame<W>> {
        let large = size.is_none();
        // A context that was used with another number of threads also holds the memory for these threads.
        let kept = if large { self.lock().pop() } else { None };
        let mut context = match kept.filter(|(threads, _)| *threads == effort.threads) {
            Some((_, context)) => context,
            None => raw::Encoder::new(effort.level)?,
        };
        context.reinit()?;
        context.set_parameter(CParameter::CompressionLevel(effort.level))?;
        // 0 stands for the default of the level.
        context.set_parameter(CParameter::HashLog(if effort.level == 1 { LEVEL_1_HASH_LOG } else { 0 }))?;
        context.set_parameter(CParameter::EnableLongDistanceMatching(effort.window_log.is_some()))?;
        context.set_parameter(CParameter::WindowLog(effort.window_log.unwrap_or(0)))?;
        if effort.threads > 1 {
            context.set_parameter(CParameter::NbWorkers(effort.threads))?;
            context.set_parameter(CParameter::JobSize(JOB_SIZE))?;
        }
        context.set_pledged_src_size(size)?;
        let writer = zio::Writer::new(out, context);
        Ok(Frame { writer, threads: effort.threads, large, contexts: self.clone() })
    }
}

impl std::fmt::Debug for ContextPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContextPool").field("kept", &self.lock().len()).finish()
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
    io::Error::other("the compressor has failed before")
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

    fn effort(level: i32, threads: u32, window_log: Option<u32>) -> Effort {
        Effort { level, threads, window_log }
    }

    /// 6 MiB of bytes that repeat themselves after each MiB.
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
    fn a_file_with_several_efforts_decompresses_to_the_nar() {
        let (bytes, contexts) = (sample(), Arc::new(ContextPool::default()));
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
            assert_eq!(contexts.lock().len(), 1, "one NAR at a time needs one context");
        }
    }

    #[test]
    fn a_context_that_is_used_again_keeps_no_parameter() {
        let (bytes, contexts) = (sample(), Arc::new(ContextPool::default()));
        let size = |effort| {
            let mut out = Compressor::new(SETTINGS, effort, None, &contexts, Vec::new()).unwrap();
            out.write_all(&bytes).unwrap();
            out.finish().unwrap().len()
        };
        let without = size(effort(1, 1, None));
        let with = size(effort(1, 1, Some(22)));
        assert!(with * 3 < without, "{with} bytes with long-distance matching, {without} without");
        assert_eq!(size(effort(1, 1, None)), without);
    }

    #[test]
    fn the_header_of_a_frame_holds_a_known_size_and_the_effort_stays() {
        let bytes = b"some bytes".repeat(1000);
        let (contexts, size) = (Arc::default(), Some(bytes.len() as u64));
        let mut out = Compressor::new(SETTINGS, effort(1, 1, None), size, &contexts, Vec::new()).unwrap();
        out.write_all(&bytes[..5000]).unwrap();
        out.change(effort(6, 1, None)).unwrap();
        out.write_all(&bytes[5000..]).unwrap();
        let file = out.finish().unwrap();
        assert_eq!(zstd::zstd_safe::get_frame_content_size(&file).unwrap(), size);
        assert_eq!(zstd::decode_all(&*file).unwrap(), bytes);
        assert!(contexts.lock().is_empty());
    }
}
