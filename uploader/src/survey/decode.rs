//! Decompresses a NAR in every form that Nix reads.
//!
//! Nix gives `none` and `br` to decoders of their own, and the rest to libarchive. Nix 2.8 lets libarchive look at the first
//! bytes of the object, whatever the label says. Later versions let it try the form of the label only. So a NAR counts only in
//! the form of its label, which all versions read.

use std::io::{self, BufRead, BufReader, Read};

use brotli_decompressor::Decompressor as Brotli;
use bzip2::bufread::MultiBzDecoder as Bzip2;
use flate2::bufread::MultiGzDecoder as Gzip;
use liblzma::bufread::XzDecoder as Xz;
use liblzma::stream::{CONCATENATED, Stream};
use lz4_flex::frame::FrameDecoder as Lz4;
use zstd::stream::read::Decoder as Zstd;

/// The most memory that the decoder of xz may use, in bytes. The highest level of xz needs 65 MiB.
const XZ_MEMORY: u64 = 80 << 20;
/// The size of the buffer before a decoder, in bytes.
const BUFFER: usize = 64 << 10;
/// The labels of the forms that libarchive reads, and the first bytes of these.
const FORMS: &[(&str, &[u8], Form)] = &[
    ("zstd", &[0x28, 0xb5, 0x2f, 0xfd], Form::Zstd),
    ("xz", &[0xfd, b'7', b'z', b'X', b'Z', 0], Form::Xz),
    ("gzip", &[0x1f, 0x8b], Form::Gzip),
    ("bzip2", b"BZh", Form::Bzip2),
    ("lz4", &[0x04, 0x22, 0x4d, 0x18], Form::Lz4),
    ("lzip", b"LZIP", Form::Lzip),
];
/// The first bytes of a frame of zstd without contents; the last four bits of the first byte may be any.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Zstd,
    Xz,
    Gzip,
    Bzip2,
    Lz4,
    Lzip,
}

/// The largest window of zstd that larder writes, as a power of two.
pub const OWN_WINDOW: u32 = 25;
/// The largest window of zstd that clients read.
pub const CLIENT_WINDOW: u32 = 27;

/// A reader of the NAR in an object with this label of a narinfo.
///
/// # Errors
/// The object does not begin in the form of the label, or cannot be read.
pub(super) fn decoder<'r>(
    label: &str,
    object: impl Read + 'r,
    zstd_window: u32,
) -> io::Result<Box<dyn Read + 'r>> {
    match label {
        "none" => return Ok(Box::new(object)),
        "br" => return Ok(Box::new(Brotli::new(object, BUFFER))),
        _ => {}
    }
    let mut object = BufReader::with_capacity(BUFFER, object);
    let start = object.fill_buf()?;
    let form = form(label, start).map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?;
    Ok(match form {
        Form::Zstd => {
            let mut zstd = Zstd::with_buffer(object)?;
            zstd.window_log_max(zstd_window)?;
            Box::new(zstd)
        }
        Form::Xz => Box::new(Xz::new_stream(object, Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?)),
        Form::Lzip => Box::new(Xz::new_stream(object, Stream::new_lzip_decoder(XZ_MEMORY, CONCATENATED)?)),
        Form::Gzip => Box::new(Gzip::new(object)),
        Form::Bzip2 => Box::new(Bzip2::new(object)),
        Form::Lz4 => Box::new(Frames(Lz4::new(object))),
    })
}

/// The form of an object that begins with these bytes, or why it is not that of its label.
fn form(label: &str, start: &[u8]) -> Result<Form, String> {
    // `pzstd` begins with a frame that holds no contents.
    let is_skippable = start.get(1..4) == Some(&SKIPPABLE[1..]) && start[0] & 0xf0 == SKIPPABLE[0];
    let begins = |magic: &[u8], form| start.starts_with(magic) || form == Form::Zstd && is_skippable;
    let found = FORMS.iter().filter(|(_, magic, form)| begins(magic, *form));
    match found.clone().find(|(known, ..)| *known == label) {
        Some((.., form)) => Ok(*form),
        None => {
            let other = found.map(|(other, ..)| format!(", but as {other}")).next();
            Err(format!("it does not begin as {label}{}", other.unwrap_or_default()))
        }
    }
}

/// lz4 in several frames. The decoder gives nothing at the end of each frame.
struct Frames<R: Read>(Lz4<R>);

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.0.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.0.get_mut().fill_buf()?.is_empty() {
                return Ok(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// The bytes in each form, each but that of brotli as two files one after the other.
    fn forms(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let (one, other) = bytes.split_at(bytes.len() / 3);
        let twice = |encode: &dyn Fn(&[u8]) -> Vec<u8>| [encode(one), encode(other)].concat();
        let read = |mut reader: Box<dyn Read + '_>| {
            let mut file = Vec::new();
            reader.read_to_end(&mut file).unwrap();
            file
        };
        let mut brotli = Vec::new();
        // An uncompressed meta-block is brotli, too: the encoder is another crate.
        brotli.extend(stored_brotli(bytes));
        vec![
            ("none", bytes.to_vec()),
            ("br", brotli),
            ("zstd", twice(&|part| zstd::encode_all(part, 3).unwrap())),
            ("xz", twice(&|part| read(Box::new(liblzma::read::XzEncoder::new(part, 1))))),
            (
                "gzip",
                twice(&|part| {
                    read(Box::new(flate2::read::GzEncoder::new(part, flate2::Compression::fast())))
                }),
            ),
            (
                "bzip2",
                twice(&|part| read(Box::new(bzip2::read::BzEncoder::new(part, bzip2::Compression::fast())))),
            ),
            ("lz4", twice(&lz4)),
        ]
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Brotli (RFC 7932) with a window of 16 bits, in uncompressed meta-blocks of at most 65,536 bytes.
    fn stored_brotli(bytes: &[u8]) -> Vec<u8> {
        let mut bits = Bits::default();
        bits.add(0, 1);
        for block in bytes.chunks(1 << 16) {
            bits.add(0, 1); // not the last
            bits.add(0, 2); // four nibbles of length
            bits.add(block.len() as u64 - 1, 16);
            bits.add(1, 1); // uncompressed
            bits.align();
            bits.bytes.extend(block);
        }
        bits.add(0b11, 2); // the last, empty
        bits.align();
        bits.bytes
    }

    #[derive(Default)]
    struct Bits {
        bytes: Vec<u8>,
        byte: u64,
        count: u32,
    }

    impl Bits {
        fn add(&mut self, value: u64, count: u32) {
            self.byte |= value << self.count;
            self.count += count;
            while self.count >= 8 {
                self.bytes.push(self.byte as u8);
                (self.byte, self.count) = (self.byte >> 8, self.count - 8);
            }
        }

        fn align(&mut self) {
            if self.count > 0 {
                self.add(0, 8 - self.count);
            }
        }
    }

    fn decoded(label: &str, file: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        decoder(label, file, OWN_WINDOW)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn every_form_is_read_also_in_several_frames() {
        let bytes: Vec<u8> = (0..90_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        for (label, file) in forms(&bytes) {
            assert!(decoded(label, &file).unwrap() == bytes, "{label}");
        }
    }

    #[test]
    fn frames_of_zstd_without_contents_are_skipped() {
        let frame = zstd::encode_all(&b"contents"[..], 3).unwrap();
        let empty = [&[0x5d, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"size"].concat();
        let file = [&empty, &frame, &empty, &frame, &empty].map(Vec::as_slice).concat();
        assert_eq!(decoded("zstd", &file).unwrap(), b"contentscontents");
        assert!(decoded("lz4", &file).is_err());
    }

    #[test]
    fn a_file_in_another_form_than_its_label_is_an_error_or_other_bytes() {
        let bytes: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
        let files = forms(&bytes);
        for label in files.iter().map(|(label, _)| *label) {
            for (other, file) in files.iter().filter(|(other, _)| *other != label) {
                let read = decoded(label, file);
                assert!(read.is_err() || read.is_ok_and(|read| read != bytes), "{other} as {label}");
            }
        }
        let error = decoded("xz", &files[2].1).unwrap_err().to_string();
        assert_eq!(error, "it does not begin as xz, but as zstd");
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let bytes: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
        for (label, file) in forms(&bytes) {
            let cut = decoded(label, &file[..file.len() - 20]);
            assert!(cut.is_err() || cut.is_ok_and(|cut| cut.len() < bytes.len()), "{label}");
        }
        assert!(decoded("zstd", b"rubbish").is_err());
        assert!(decoded("zstd", b"").is_err());
    }
}
