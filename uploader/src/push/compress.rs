//! Compression of a NAR while it streams.

use std::io::{self, Write};

use zstd::stream::raw::CParameter;

use crate::cache::keys::Compression;

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
    /// zstd: by what limits the push, see [`Pace`](super::pace::Pace); xz has its usual one.
    Adaptive,
    /// This one.
    Fixed(i32),
}

/// What is spent on a NAR at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// The level.
    pub level: i32,
    /// The threads.
    pub threads: u32,
    /// How far zstd looks for long matches, as the logarithm of the distance in bytes; `None` for the level's own
    /// window and no special search.
    pub reach: Option<u32>,
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
    Zstd(zstd::stream::write::Encoder<'static, W>),
    Xz(Box<liblzma::write::XzEncoder<W>>),
    None(W),
}

impl<W: Write> Compressor<W> {
    /// Starts compressing into `out`. With `size`, exactly so many bytes will come, and the effort stays.
    pub fn new(settings: Settings, effort: Effort, size: Option<u64>, out: W) -> io::Result<Self> {
        let encoder = match settings.compression {
            Compression::Zstd => Encoder::Zstd(frame(effort, size, out)?),
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
        if let Some(Encoder::Zstd(encoder)) = self.encoder.take() {
            self.encoder = Some(Encoder::Zstd(frame(effort, None, encoder.finish()?)?));
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
            Encoder::Zstd(encoder) => encoder.get_mut(),
            Encoder::Xz(encoder) => encoder.get_mut(),
            Encoder::None(out) => out,
        })
    }

    /// Ends the stream and hands the sink back.
    pub fn finish(self) -> io::Result<W> {
        match self.encoder.ok_or_else(failed)? {
            Encoder::Zstd(encoder) => encoder.finish(),
            Encoder::Xz(encoder) => encoder.finish(),
            Encoder::None(out) => Ok(out),
        }
    }
}

/// A frame of zstd. With the size known, small inputs get small windows, and the frame tells it to readers.
fn frame<W: Write>(
    effort: Effort,
    size: Option<u64>,
    out: W,
) -> io::Result<zstd::stream::write::Encoder<'static, W>> {
    let mut encoder = zstd::stream::write::Encoder::new(out, effort.level)?;
    encoder.set_pledged_src_size(size)?;
    if effort.level == 1 {
        encoder.set_parameter(CParameter::HashLog(FAST_TABLE))?;
    }
    if let Some(reach) = effort.reach {
        encoder.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
        encoder.set_parameter(CParameter::WindowLog(reach))?;
    }
    if effort.threads > 1 {
        encoder.multithread(effort.threads)?;
        encoder.set_parameter(CParameter::JobSize(JOB))?;
    }
    Ok(encoder)
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
            Encoder::Zstd(encoder) => encoder.write(bytes),
            Encoder::Xz(encoder) => encoder.write(bytes),
            Encoder::None(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.encoder.as_mut().ok_or_else(failed)? {
            Encoder::Zstd(encoder) => encoder.flush(),
            Encoder::Xz(encoder) => encoder.flush(),
            Encoder::None(out) => out.flush(),
        }
    }
}
