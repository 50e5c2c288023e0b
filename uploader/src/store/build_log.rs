//! Finds and reads build logs.

use std::collections::BTreeMap;
use std::fs::{DirEntry, File, Metadata, ReadDir};
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bzip2::bufread::MultiBzDecoder;
use nix_derivation::StorePath;

use super::location::StoreLocation;

/// The encoding of a build log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEncoding {
    /// Plain text.
    Plain,
    /// Compressed with bzip2, which is Nix's default.
    Bzip2,
}

/// A build log on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildLog {
    /// The file.
    pub path: PathBuf,
    /// Its encoding.
    pub encoding: LogEncoding,
}

/// The text of a build log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogText {
    /// The whole text.
    Whole(Vec<u8>),
    /// There is more text than was permitted.
    TooLong,
    /// The file breaks off. Nix writes the end of a compressed log when the build ends.
    Unfinished,
}

/// The size of a bzip2 file without contents.
const NOTHING_IN_BZIP2: u64 = 14;

impl BuildLog {
    /// Whether the size of the file shows that the log has no text.
    pub fn is_silent(&self) -> bool {
        let silent = match self.encoding {
            LogEncoding::Plain => 0,
            LogEncoding::Bzip2 => NOTHING_IN_BZIP2,
        };
        self.path.metadata().is_ok_and(|found| found.len() <= silent)
    }

    /// Reads the text of the log, at most so many bytes.
    ///
    /// # Errors
    /// The file cannot be read, or is no log.
    pub fn read(&self, most: u64) -> io::Result<LogText> {
        let file = File::open(&self.path)?;
        let mut text = Vec::new();
        let limit = most.saturating_add(1);
        let read = match self.encoding {
            LogEncoding::Plain => file.take(limit).read_to_end(&mut text),
            LogEncoding::Bzip2 => {
                MultiBzDecoder::new(BufReader::new(file)).take(limit).read_to_end(&mut text)
            }
        };
        match read {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(LogText::Unfinished),
            Err(error) => Err(error),
            Ok(_) if text.len() as u64 > most => Ok(LogText::TooLong),
            // A build that says nothing has a compressed log without text, not an empty file.
            Ok(0) if self.encoding == LogEncoding::Bzip2 && file_is_empty(&self.path) => {
                Ok(LogText::Unfinished)
            }
            Ok(_) => Ok(LogText::Whole(text)),
        }
    }
}

fn file_is_empty(file: &Path) -> bool {
    file.metadata().is_ok_and(|found| found.len() == 0)
}

/// Finds the log of a derivation's last build. It looks in the same places and in the same order as Nix.
pub fn find_build_log(location: &StoreLocation, derivation: &StorePath) -> Option<BuildLog> {
    let name = derivation.to_basename();
    let drvs = location.log_dir.join("drvs");
    let (start, rest) = name.split_at(2);
    for plain in [drvs.join(start).join(rest), drvs.join(&name)] {
        let mut compressed = plain.clone().into_os_string();
        compressed.push(".bz2");
        for (path, encoding) in [(plain, LogEncoding::Plain), (compressed.into(), LogEncoding::Bzip2)] {
            if path.is_file() {
                return Some(BuildLog { path, encoding });
            }
        }
    }
    None
}

/// The derivations whose logs were last written at `from` or later, each with that time, in seconds since 1970. What cannot be
/// read is left out. Costs a question to the file system for each log of the store, which is a fraction of a second for
/// 100,000 logs.
pub fn recent_logs(location: &StoreLocation, from: u64) -> BTreeMap<StorePath, u64> {
    let drvs = location.log_dir.join("drvs");
    let mut found = BTreeMap::new();
    let mut add = |name: &str, log: &DirEntry| {
        let Some(at) = written(log).filter(|at| *at >= from) else { return };
        if let Some(derivation) = derivation_of(name) {
            let last: &mut u64 = found.entry(derivation).or_default();
            *last = at.max(*last);
        }
    };
    for entry in entries(&drvs) {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.len() != 2 {
            add(name, &entry);
            continue;
        }
        for log in entries(&entry.path()) {
            log.file_name().to_str().into_iter().for_each(|rest| add(&format!("{name}{rest}"), &log));
        }
    }
    found
}

fn entries(directory: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    let read: Option<ReadDir> = std::fs::read_dir(directory).ok();
    read.into_iter().flatten().flatten()
}

fn written(log: &DirEntry) -> Option<u64> {
    let modified = log.metadata().ok().filter(Metadata::is_file)?.modified().ok()?;
    Some(modified.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

fn derivation_of(name: &str) -> Option<StorePath> {
    let name = name.strip_suffix(".bz2").unwrap_or(name);
    StorePath::from_basename(name.as_bytes()).ok().filter(StorePath::is_derivation)
}

#[cfg(test)]
mod tests {
    use super::super::location::{DaemonAddress, StoreLocation};
    use super::*;

    fn location(log_dir: &Path) -> StoreLocation {
        StoreLocation {
            store_dir: Default::default(),
            real_dir: "/nix/store".into(),
            state_dir: "/nix/var/nix".into(),
            log_dir: log_dir.into(),
            daemon: DaemonAddress::Socket("/socket".into()),
        }
    }

    #[test]
    fn the_text_is_bounded_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8], encoding| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            BuildLog { path, encoding }
        };
        let packed = |text: &[u8]| {
            let mut packed = Vec::new();
            let encoder = bzip2::read::BzEncoder::new(text, bzip2::Compression::best());
            { encoder }.read_to_end(&mut packed).unwrap();
            packed
        };
        let text = b"building\n".repeat(1000);
        let whole = LogText::Whole(text.clone());
        let (plain, bzip2) = (LogEncoding::Plain, LogEncoding::Bzip2);
        let long = packed(&text);
        for (bytes, encoding) in [(&*text, plain), (&*long, bzip2)] {
            let log = file("log", bytes, encoding);
            assert_eq!(log.read(text.len() as u64).unwrap(), whole);
            assert_eq!(log.read(text.len() as u64 - 1).unwrap(), LogText::TooLong);
        }
        for cut in 0..long.len() {
            assert_eq!(file("cut", &long[..cut], bzip2).read(1 << 20).unwrap(), LogText::Unfinished, "{cut}");
        }
        let silent = file("silent", &packed(b""), bzip2);
        assert_eq!(silent.read(1).unwrap(), LogText::Whole(Vec::new()));
        assert!(silent.is_silent() && file("nothing", b"", plain).is_silent());
        assert!(!file("one", &packed(b"x"), bzip2).is_silent() && !file("one", b"x", plain).is_silent());
        assert!(file("no log", b"no log at all", bzip2).read(100).is_err());
    }

    #[test]
    fn recent_logs_are_those_that_were_written_since() {
        let dir = tempfile::tempdir().unwrap();
        let base = "00bgd045z0d4icpbc2yyz4gx48ak44la-hello-1.0.drv";
        let other = "11bgd045z0d4icpbc2yyz4gx48ak44la-hello-1.0.drv";
        let drvs = dir.path().join("drvs");
        std::fs::create_dir_all(drvs.join("00")).unwrap();
        std::fs::create_dir_all(drvs.join("11")).unwrap();
        for (name, at) in [
            (format!("00/{}.bz2", &base[2..]), 100),
            (format!("11/{}", &other[2..]), 200),
            ("00/rubbish".into(), 100),
            (format!("{base}.bz2"), 50),
        ] {
            let file = File::create(drvs.join(name)).unwrap();
            file.set_modified(UNIX_EPOCH + std::time::Duration::from_secs(at)).unwrap();
        }
        let found = |from| -> Vec<(String, u64)> {
            let found = recent_logs(&location(dir.path()), from);
            found.into_iter().map(|(path, at)| (path.to_basename(), at)).collect()
        };
        let (base, other) = (base.to_owned(), other.to_owned());
        assert_eq!(found(0), [(base.clone(), 100), (other.clone(), 200)]);
        assert_eq!(found(100), [(base, 100), (other.clone(), 200)]);
        assert_eq!(found(101), [(other, 200)]);
        assert!(found(201).is_empty());
        assert!(recent_logs(&location(&dir.path().join("none")), 0).is_empty());
    }

    #[test]
    fn a_log_is_found_in_each_of_its_places() {
        let dir = tempfile::tempdir().unwrap();
        let location = location(dir.path());
        let name = "00bgd045z0d4icpbc2yyz4gx48ak44la-hello-1.0.drv";
        let derivation = StorePath::from_basename(name.as_bytes()).unwrap();
        assert_eq!(find_build_log(&location, &derivation), None);
        let drvs = dir.path().join("drvs");
        std::fs::create_dir_all(drvs.join("00")).unwrap();
        // From the last place to the first: each new file has precedence over the files before it.
        for (file, encoding) in [
            (format!("{name}.bz2"), LogEncoding::Bzip2),
            (name.to_owned(), LogEncoding::Plain),
            (format!("00/{}.bz2", &name[2..]), LogEncoding::Bzip2),
            (format!("00/{}", &name[2..]), LogEncoding::Plain),
        ] {
            let path = drvs.join(file);
            std::fs::write(&path, "log").unwrap();
            assert_eq!(find_build_log(&location, &derivation), Some(BuildLog { path, encoding }));
        }
    }
}
