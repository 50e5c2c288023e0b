//! Compression of a NAR while it streams.

use std::io::{self, Write};

use crate::cache::keys::Compression;

/// How NARs are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The format.
    pub compression: Compression,
    /// The level; `None` for the format's usual one.
    pub level: Option<i32>,
    /// How many threads may work on one large NAR.
    pub threads: u32,
}

/// From this size of a NAR on, several threads work on it. Below, other paths keep the cores busy, and one thread
/// compresses a little better.
const MANY_THREADS_FROM: u64 = 512 << 20;
const ZSTD_LEVEL: i32 = 3;
const XZ_LEVEL: u32 = 6;

/// A writer that compresses into `W`.
pub enum Compressor<W: Write> {
    /// zstd.
    Zstd(zstd::stream::write::Encoder<'static, W>),
    /// xz.
    Xz(liblzma::write::XzEncoder<W>),
    /// Nothing.
    None(W),
}

impl<W: Write> std::fmt::Debug for Compressor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

impl<W: Write> Compressor<W> {
    /// Starts compressing a NAR of `nar_size` bytes into `out`.
    pub fn new(settings: Settings, nar_size: u64, out: W) -> io::Result<Self> {
        let threads = if nar_size >= MANY_THREADS_FROM { settings.threads } else { 1 };
        Ok(match settings.compression {
            Compression::Zstd => {
                let mut encoder =
                    zstd::stream::write::Encoder::new(out, settings.level.unwrap_or(ZSTD_LEVEL))?;
                // With the size known, small inputs get small windows, and the frame tells it to readers.
                encoder.set_pledged_src_size(Some(nar_size))?;
                if threads > 1 {
                    encoder.multithread(threads)?;
                }
                Self::Zstd(encoder)
            }
            Compression::Xz => {
                let level = settings.level.and_then(|level| u32::try_from(level).ok()).unwrap_or(XZ_LEVEL);
                let stream = if threads > 1 {
                    liblzma::stream::MtStreamBuilder::new()
                        .threads(threads)
                        .preset(level)
                        .check(liblzma::stream::Check::Crc64)
                        .encoder()
                } else {
                    liblzma::stream::Stream::new_easy_encoder(level, liblzma::stream::Check::Crc64)
                };
                Self::Xz(liblzma::write::XzEncoder::new_stream(out, stream.map_err(io::Error::other)?))
            }
            Compression::None => Self::None(out),
        })
    }

    /// Ends the stream and hands the sink back.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Zstd(encoder) => encoder.finish(),
            Self::Xz(encoder) => encoder.finish(),
            Self::None(out) => Ok(out),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Zstd(encoder) => encoder.write(bytes),
            Self::Xz(encoder) => encoder.write(bytes),
            Self::None(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.flush(),
            Self::Xz(encoder) => encoder.flush(),
            Self::None(out) => out.flush(),
        }
    }
}
