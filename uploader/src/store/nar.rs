//! Makes NARs from the files of the store.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use nix_archive::nar::{self, CaseHack, encode_path};
use nix_derivation::StorePath;
use sha2::{Digest, Sha256};

use super::location::StoreLocation;
use crate::base::error::{Area, Error, Retry};

/// The size of the pieces in which a NAR reaches its sink, in bytes.
const PIECE: usize = 128 << 10;

/// The number of directories above a file that a NAR cannot hold. Nix 2.34 and later refuse such a NAR; older versions
/// have no limit.
const MAX_DEPTH: usize = 64;

/// The reason why a NAR cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NarError {
    /// The path does not exist, or does not exist any more.
    #[error("`{}` does not exist", .0.display())]
    Gone(PathBuf),
    /// The path changed while it was read. Paths of a store must not change.
    #[error("`{path}` changed while it was read: {1}", path = .0.display())]
    Changed(PathBuf, String),
    /// The path cannot be read.
    #[error("cannot read `{path}`", path = .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// The path contains a file that a NAR cannot hold.
    #[error("a NAR cannot hold `{path}`: {1}", path = .0.display())]
    Unsupported(PathBuf, String),
    /// The path contains a file or directory that is nested too deeply; the text says where.
    #[error("`{path}` is nested too deeply: `{1}` lies {MAX_DEPTH} levels below it", path = .0.display())]
    TooDeep(PathBuf, String),
    /// The sink failed; reading succeeded.
    #[error("cannot pass on a NAR")]
    Sink(#[source] io::Error),
}

impl From<NarError> for Error {
    fn from(error: NarError) -> Self {
        let retry = match &error {
            NarError::Gone(_) | NarError::Unsupported(..) | NarError::TooDeep(..) => Retry::Permanent,
            NarError::Io(_, cause) if cause.kind() == io::ErrorKind::PermissionDenied => Retry::Permanent,
            NarError::Changed(..) | NarError::Io(..) | NarError::Sink(_) => Retry::Unknown,
        };
        let hint = match &error {
            NarError::Io(_, cause) if cause.kind() == io::ErrorKind::PermissionDenied => Some(
                "every user must be able to read store paths; check the permissions of this path and of the store directory",
            ),
            NarError::Changed(..) | NarError::Io(..) => Some("`nix store verify` checks the path"),
            NarError::TooDeep(..) => Some(
                "Nix 2.34 and later refuse such a path, so larder does not push it; make the tree flatter, or pack it into an archive",
            ),
            _ => None,
        };
        let what = error.to_string();
        let told = match error {
            NarError::Io(_, cause) | NarError::Sink(cause) => {
                Error::new(Area::Store, retry, what).because(cause)
            }
            _ => Error::new(Area::Store, retry, what),
        };
        match hint {
            Some(hint) => told.hint(hint),
            None => told,
        }
    }
}

/// Writes the NAR of a path to `out` in pieces of 128 KiB. The use of memory does not depend on the sizes of the files.
///
/// The function does not compare the NAR with the path info; [`HashingWriter`] computes the hash and size for that.
pub fn dump(location: &StoreLocation, path: &StorePath, out: &mut dyn Write) -> Result<(), NarError> {
    dump_path(&location.real_path(path), out)
}

fn dump_path(path: &Path, out: &mut dyn Write) -> Result<(), NarError> {
    let sink = Sink { out, error: None };
    let mut buffer = BufWriter::with_capacity(PIECE, sink);
    let mut result = encode_path(&mut buffer, path, CaseHack::native());
    if result.is_ok() {
        result = buffer.flush().map_err(nar::Error::Io);
    }
    // `into_parts` does not flush: after a failure, no more bytes may reach the sink.
    let (mut sink, _) = buffer.into_parts();
    let Err(error) = result else { return Ok(()) };
    Err(match sink.error.take() {
        Some(error) => NarError::Sink(error),
        None => read_error(path, error),
    })
}

fn read_error(path: &Path, error: nar::Error) -> NarError {
    // If the path does not exist any more, its deletion is the cause of every other error.
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return NarError::Gone(path.to_owned());
    }
    match error {
        nar::Error::FileChanged(file) => {
            NarError::Changed(path.to_owned(), format!("the size of `{}` changed", file.display()))
        }
        nar::Error::Io(error) => match error.kind() {
            // A file was deleted or replaced after its directory was listed.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                NarError::Changed(path.to_owned(), error.to_string())
            }
            _ => NarError::Io(path.to_owned(), error),
        },
        nar::Error::MaxDepth(_) => NarError::TooDeep(path.to_owned(), too_deep(path)),
        error => NarError::Unsupported(path.to_owned(), error.to_string()),
    }
}

/// The first file or directory below `path` that is nested too deeply, relative to `path`. The middle is left out.
fn too_deep(path: &Path) -> String {
    let entries = walkdir::WalkDir::new(path).min_depth(MAX_DEPTH).max_depth(MAX_DEPTH).sort_by_file_name();
    let Some(Ok(first)) = entries.into_iter().next() else { return "a file".into() };
    let names: Vec<_> =
        first.path().strip_prefix(path).unwrap_or(path).iter().map(|name| name.to_string_lossy()).collect();
    format!("{}/…/{}", names[..3].join("/"), names[names.len() - 1])
}

/// Keeps the error of the sink, to distinguish it from an error of reading.
struct Sink<'a> {
    out: &'a mut dyn Write,
    error: Option<io::Error>,
}

impl Sink<'_> {
    fn keep<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            self.error = Some(error);
            io::Error::other("the sink failed")
        })
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = match self.out.write(bytes) {
            Ok(0) if !bytes.is_empty() => Err(io::ErrorKind::WriteZero.into()),
            other => other,
        };
        self.keep(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.out.flush();
        self.keep(result)
    }
}

/// The SHA-256 and the length of the bytes that passed through a [`HashingWriter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digested {
    /// The SHA-256.
    pub sha256: [u8; 32],
    /// The length in bytes.
    pub size: u64,
}

/// A writer that counts and hashes the bytes that pass through it.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> HashingWriter<W> {
    /// A writer that passes all bytes on to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), size: 0 }
    }

    /// The number of bytes that have passed so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The inner writer.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.inner
    }

    /// The inner writer, not flushed, and the hash and length of the bytes that passed.
    pub fn finish(self) -> (W, Digested) {
        (self.inner, Digested { sha256: self.hasher.finalize().into(), size: self.size })
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Accepts this number of bytes, then calls the function before each write.
    struct Limited<F: FnMut() -> io::Result<()>>(usize, F);

    impl<F: FnMut() -> io::Result<()>> Write for Limited<F> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 < bytes.len() {
                self.1()?;
            }
            self.0 = self.0.saturating_sub(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("a"), vec![b'a'; 1 << 20]).unwrap();
        fs::write(dir.path().join("b"), vec![b'b'; 1 << 20]).unwrap();
        fs::write(dir.path().join("sub/c"), "").unwrap();
        dir
    }

    #[test]
    fn bytes_are_counted_and_hashed() {
        let dir = tree();
        let mut writer = HashingWriter::new(Vec::new());
        dump_path(dir.path(), &mut writer).unwrap();
        let (bytes, digested) = writer.finish();
        assert_eq!(digested.size, bytes.len() as u64);
        assert_eq!(digested.sha256, nar::hash_path(dir.path(), CaseHack::native()).unwrap().sha256);
    }

    #[test]
    fn errors_of_the_sink_differ_from_errors_of_reading() {
        let dir = tree();
        for limit in [0, 1000, 1 << 20, (2 << 20) + 500] {
            let mut calls = 0;
            let mut sink = Limited(limit, || {
                calls += 1;
                Err(io::Error::new(io::ErrorKind::NotFound, "sink is full"))
            });
            let error = dump_path(dir.path(), &mut sink).unwrap_err();
            assert!(
                matches!(&error, NarError::Sink(cause) if cause.to_string() == "sink is full"),
                "{error}"
            );
            assert_eq!(calls, 1, "nothing reaches a sink that has failed");
        }
    }

    #[test]
    fn an_absent_path_is_gone() {
        let dir = tree();
        let absent = dir.path().join("absent");
        assert!(matches!(dump_path(&absent, &mut io::sink()), Err(NarError::Gone(path)) if path == absent));
    }

    #[test]
    fn a_path_deleted_during_reading_is_gone() {
        let dir = tree();
        let path = dir.path().join("path");
        fs::create_dir(&path).unwrap();
        fs::rename(dir.path().join("a"), path.join("a")).unwrap();
        fs::write(path.join("b"), "b").unwrap();
        let mut sink = Limited(0, || {
            fs::remove_dir_all(&path).unwrap_or_default();
            Ok(())
        });
        assert!(matches!(dump_path(&path, &mut sink), Err(NarError::Gone(_))));
    }

    #[test]
    fn a_file_that_shrinks_or_is_deleted_has_changed() {
        for shrink in [true, false] {
            let dir = tree();
            let mut sink = Limited(0, || {
                if shrink {
                    return fs::write(dir.path().join("a"), "");
                }
                fs::remove_file(dir.path().join("b")).or(Ok(()))
            });
            let error = dump_path(dir.path(), &mut sink).unwrap_err();
            assert!(matches!(error, NarError::Changed(..)), "{error}");
        }
    }

    #[test]
    fn a_tree_that_nix_refuses_for_its_depth_is_a_permanent_error_that_names_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let deep: PathBuf = (1..MAX_DEPTH).map(|level| format!("level-{level}")).collect();
        fs::create_dir_all(dir.path().join("a")).unwrap();
        fs::create_dir_all(dir.path().join(&deep)).unwrap();
        dump_path(dir.path(), &mut io::sink()).unwrap();
        fs::write(dir.path().join(&deep).join("file"), "").unwrap();
        let error = Error::from(dump_path(dir.path(), &mut io::sink()).unwrap_err());
        let text = error.to_string();
        assert!(text.contains("`level-1/level-2/level-3/…/file` lies 64 levels below it"), "{text}");
        assert!(error.hint_text().unwrap().contains("Nix 2.34"));
        assert_eq!(error.retry(), Retry::Permanent);
    }

    #[test]
    fn a_file_that_a_nar_cannot_hold_is_a_permanent_error() {
        let dir = tree();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let error = dump_path(dir.path(), &mut io::sink()).unwrap_err();
        assert!(matches!(error, NarError::Unsupported(..)), "{error}");
        assert_eq!(Error::from(error).retry(), Retry::Permanent);
    }
}
