//! What the guard takes from the probe: for each cache, one of two fixed words.
//!
//! The probe reads answers from the network, so the guard does not trust it: the guard knows the URLs itself, and refuses
//! a verdict with anything else.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::base::error::{Area, Error, Result};

const REACHABLE: &str = "reachable";
const UNREACHABLE: &str = "unreachable";

/// Which of several caches can be reached, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict(pub Vec<bool>);

impl Verdict {
    /// The text of the file: one line for each cache.
    pub fn to_text(&self) -> String {
        self.0
            .iter()
            .map(|reachable| format!("{}\n", if *reachable { REACHABLE } else { UNREACHABLE }))
            .collect()
    }

    /// Reads the file of a verdict about `count` caches. Follows no link and reads no more than such a file can have.
    ///
    /// Fails if there is no verdict, or if it has anything but one of the two words for each cache.
    pub fn read(file: &Path, count: usize) -> Result<Self> {
        let fault = || {
            Error::permanent(Area::General, format!("cannot use the verdict `{}`", file.display()))
                .hint("the log of `larder client --probe` says why it wrote none; the caches of Nix stay as they are")
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(file, flags, Mode::empty());
        let opened = File::from(opened.map_err(|error| fault().because(error))?);
        let limit = count * (UNREACHABLE.len() + 1) + 1;
        let mut bytes = Vec::new();
        let read = opened.metadata().and_then(|metadata| match metadata.is_file() {
            true => opened.take(limit as u64).read_to_end(&mut bytes).map(|_| true),
            false => Ok(false),
        });
        match read.map_err(|error| fault().because(error))? {
            true => Self::parse(&bytes, count)
                .ok_or_else(|| fault().because("it does not have one of the two words for each cache")),
            false => Err(fault().because("it is not a regular file")),
        }
    }

    fn parse(bytes: &[u8], count: usize) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let words: Option<Vec<_>> = text
            .split_inclusive('\n')
            .map(|line| match line.strip_suffix('\n') {
                Some(REACHABLE) => Some(true),
                Some(UNREACHABLE) => Some(false),
                _ => None,
            })
            .collect();
        words.filter(|words| words.len() == count).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_of_two_words_for_each_cache_is_a_verdict() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("verdict");
        let read = |text: &[u8], count: usize| {
            std::fs::write(&file, text).unwrap();
            Verdict::read(&file, count).ok()
        };
        for verdict in [Verdict(vec![]), Verdict(vec![true, false]), Verdict(vec![false; 9])] {
            assert_eq!(read(verdict.to_text().as_bytes(), verdict.0.len()), Some(verdict));
        }
        for wrong in [
            &b""[..],
            b"reachable",
            b"unreachable",
            b"reachable\nreachable\n",
            b"reachable \n",
            b"Reachable\n",
            b"reachable\r\n",
            b"\nreachable\n",
            b"reachable\n\n",
            b"reachable\nextra-substituters = http://evil\n",
            b"http://evil\n",
            b"reach\0able\n",
            b"\xff\n",
            &[b'a'; 100_000],
        ] {
            assert_eq!(read(wrong, 1), None, "{wrong:?}");
        }
    }

    #[test]
    fn links_and_pipes_are_no_verdicts() {
        let dir = tempfile::tempdir().unwrap();
        let [real, link, pipe] = ["real", "link", "pipe"].map(|name| dir.path().join(name));
        std::fs::write(&real, "reachable\n").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(Verdict::read(&real, 1).is_ok());
        for file in [&link, &pipe, dir.path(), &dir.path().join("absent")] {
            assert!(Verdict::read(file, 1).is_err(), "{}", file.display());
        }
    }
}
