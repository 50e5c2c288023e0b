//! The list of the paths that the agent has pushed, or has found in the bucket, for `larder recheck`. It may be lost at any
//! time: then a recheck looks only at the paths of later pushes.
//!
//! The list is two files in `state/`. The agent appends to the newer one. When that file is full, it becomes the older one.

use std::collections::HashSet;

use larder_hook::queue::{Layout, Place};

use crate::base::error::Result;
use crate::base::queue_error::in_queue;
use crate::push::{OutcomeKind, Report};
use crate::store::StorePath;

const NEWER: &str = "relied-on";
const OLDER: &str = "relied-on.old";
/// The size in bytes from which on a file is full. Two such files name about 200,000 paths.
const FULL: usize = 6 << 20;
/// The first line of each file names the bucket after this word.
const BUCKET: &str = "Bucket: ";

/// The hash part of a store path.
type Digest = [u8; 20];

/// The list, as the agent extends it.
#[derive(Debug, Default)]
pub(super) struct ReliedOn {
    /// The address of the bucket.
    address: String,
    /// What the files hold; `None` before they have been read.
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    paths: HashSet<Digest>,
    /// The size of the newer file in bytes; `None` when it is to be written anew.
    size: Option<usize>,
}

impl ReliedOn {
    /// The list of the bucket at `address`.
    pub(super) fn of(address: String) -> Self {
        Self { address, known: None }
    }

    /// Reads the files again before the next change: a recheck may have rewritten them.
    pub(super) fn read_again(&mut self) {
        self.known = None;
    }

    /// Adds the paths that a push has pushed or found in the bucket. A failure loses only this record.
    pub(super) fn note(&mut self, layout: &Layout, report: &Report) {
        let known = self.known.get_or_insert_with(|| Known::read(layout, &self.address));
        let relied_on = report
            .outcomes
            .iter()
            .filter(|(_, outcome)| outcome.is_available() && outcome.kind() != OutcomeKind::Upstream);
        let mut lines = String::new();
        for (path, _) in relied_on.filter(|(path, _)| known.paths.insert(*path.digest())) {
            lines.push_str(&path.to_basename());
            lines.push('\n');
        }
        if !lines.is_empty() && known.append(layout, &self.address, &lines).is_err() {
            self.known = None;
        }
    }
}

impl Known {
    fn read(layout: &Layout, address: &str) -> Self {
        let newer = text(layout, NEWER, address);
        let older = text(layout, OLDER, address).unwrap_or_default();
        let all = paths(&older).chain(paths(newer.as_deref().unwrap_or_default()));
        let paths = all.map(|path| *path.digest()).collect();
        // A file whose last line is cut off is written anew.
        let size = newer.filter(|text| text.ends_with('\n')).map(|text| text.len());
        Self { paths, size }
    }

    /// Appends lines to the newer file.
    fn append(&mut self, layout: &Layout, address: &str, lines: &str) -> Result<()> {
        if self.size.is_some_and(|size| size >= FULL) {
            layout.rename(Place::State, NEWER, Place::State, OLDER).map_err(in_queue)?;
            self.size = None;
        }
        if let Some(size) = self.size
            && layout.append(Place::State, NEWER, lines.as_bytes()).is_ok()
        {
            self.size = Some(size + lines.len());
            return Ok(());
        }
        // The file is new, damaged or lost, or it belongs to another user, who ran the agent before.
        let before: Vec<_> = paths(&text(layout, NEWER, address).unwrap_or_default()).collect();
        let text = render(address, &before) + lines;
        layout.write(Place::State, Place::State, NEWER, text.as_bytes()).map_err(in_queue)?;
        self.size = Some(text.len());
        Ok(())
    }
}

/// The paths in the list of the bucket at `address`, the oldest first, each once.
pub(super) fn read(layout: &Layout, address: &str) -> Vec<StorePath> {
    let mut seen = HashSet::new();
    let texts = [OLDER, NEWER].map(|name| text(layout, name, address).unwrap_or_default());
    texts.iter().flat_map(|text| paths(text)).filter(|path| seen.insert(*path.digest())).collect()
}

/// Removes paths from the list of the bucket at `address`. What the agent appends at the same time may be lost.
///
/// # Errors
/// A file cannot be written.
pub(super) fn remove(layout: &Layout, address: &str, gone: &HashSet<StorePath>) -> Result<()> {
    for name in [OLDER, NEWER] {
        let Some(text) = text(layout, name, address) else { continue };
        let (left, lost): (Vec<_>, Vec<_>) = paths(&text).partition(|path| !gone.contains(path));
        if !lost.is_empty() {
            let text = render(address, &left);
            layout.write(Place::State, Place::State, name, text.as_bytes()).map_err(in_queue)?;
        }
    }
    Ok(())
}

/// The text of a file; `None` when it is absent, unreadable, or of another bucket.
fn text(layout: &Layout, name: &str, address: &str) -> Option<String> {
    let (bytes, _) = layout.read(Place::State, name).ok()??;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (text.lines().next()?.strip_prefix(BUCKET)? == address).then_some(text)
}

/// The paths that a text names. Lines that name none are skipped, and so is a last line that is cut off.
fn paths(text: &str) -> impl Iterator<Item = StorePath> {
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    lines.filter_map(|line| StorePath::from_basename(line.as_bytes()).ok())
}

fn render(address: &str, paths: &[StorePath]) -> String {
    let lines = paths.iter().map(|path| path.to_basename() + "\n");
    format!("{BUCKET}{address}\n") + &lines.collect::<String>()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::push::Outcome;

    const ADDRESS: &str = "s3://cache?endpoint=http://127.0.0.1";

    fn path(number: usize) -> StorePath {
        let mut digest = [0; 20];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        StorePath::from_parts(digest, "path").unwrap()
    }

    fn report(outcomes: impl IntoIterator<Item = (usize, Outcome)>) -> Report {
        let outcomes = outcomes.into_iter().map(|(number, outcome)| (Arc::new(path(number)), outcome));
        Report { outcomes: outcomes.collect(), since: None }
    }

    fn present(numbers: std::ops::Range<usize>) -> Report {
        report(numbers.map(|number| (number, Outcome::Present)))
    }

    fn queue() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path(), None).unwrap();
        (dir, layout)
    }

    fn file(dir: &Path, name: &str) -> std::path::PathBuf {
        dir.join("state").join(name)
    }

    fn numbers(layout: &Layout) -> Vec<usize> {
        let number = |path: StorePath| usize::from_le_bytes(path.digest()[..8].try_into().unwrap());
        read(layout, ADDRESS).into_iter().map(number).collect()
    }

    #[test]
    fn what_is_available_in_the_bucket_is_listed_once() {
        let (dir, layout) = queue();
        let mut list = ReliedOn::of(ADDRESS.into());
        let differs = Outcome::Differs { signer: "team-1".into() };
        let outcomes = [
            Outcome::Present,
            Outcome::Signed,
            Outcome::Pushed { nar_size: 1, sent: 1 },
            differs,
            Outcome::Upstream,
            Outcome::Gone,
            Outcome::Unusable("rubbish".into()),
        ];
        list.note(&layout, &report(outcomes.into_iter().enumerate()));
        list.note(&layout, &present(2..6));
        // A later agent reads what it finds.
        ReliedOn::of(ADDRESS.into()).note(&layout, &present(4..8));
        assert_eq!(numbers(&layout), [0, 1, 2, 3, 4, 5, 6, 7]);
        let text = std::fs::read_to_string(file(dir.path(), NEWER)).unwrap();
        assert_eq!(text.lines().count(), 9, "{text}");
        assert!(read(&layout, "s3://other").is_empty());
    }

    #[test]
    fn a_lost_or_damaged_list_is_continued() {
        let (dir, layout) = queue();
        let newer = file(dir.path(), NEWER);
        let mut list = ReliedOn::of(ADDRESS.into());
        list.note(&layout, &present(0..3));
        let whole = std::fs::read(&newer).unwrap();
        // The last line is cut off, and others are rubbish.
        let mut damaged = whole[..whole.len() - 3].to_vec();
        damaged.splice(ADDRESS.len() + 9..ADDRESS.len() + 9, b"rubbish\n\xff\0\n\n".iter().copied());
        std::fs::write(&newer, damaged).unwrap();
        list.read_again();
        list.note(&layout, &present(3..4));
        assert_eq!(numbers(&layout), [0, 1, 3]);
        for lost in [&b""[..], b"Bucket: s3://other\n", b"\0\0\0"] {
            std::fs::write(&newer, lost).unwrap();
            list.read_again();
            list.note(&layout, &present(7..9));
            assert_eq!(numbers(&layout), [7, 8]);
        }
        std::fs::remove_file(&newer).unwrap();
        assert!(numbers(&layout).is_empty());
        list.note(&layout, &present(9..10));
        list.read_again();
        list.note(&layout, &present(9..11));
        assert_eq!(numbers(&layout), [9, 10]);
    }

    #[test]
    fn the_oldest_paths_leave_a_full_list() {
        let (dir, layout) = queue();
        let mut list = ReliedOn::of(ADDRESS.into());
        let portion = FULL / path(0).to_basename().len();
        for first in [0, portion, 2 * portion, 3 * portion] {
            list.note(&layout, &present(first..first + portion + 1));
        }
        let left = numbers(&layout);
        assert!(left.len() > portion && left.len() < 3 * portion, "{}", left.len());
        assert_eq!(left.last(), Some(&(4 * portion)));
        for name in [NEWER, OLDER] {
            assert!(std::fs::metadata(file(dir.path(), name)).unwrap().len() < 2 * FULL as u64);
        }
    }

    #[test]
    fn removed_paths_leave_both_files_and_can_return() {
        let (dir, layout) = queue();
        let mut list = ReliedOn::of(ADDRESS.into());
        list.note(&layout, &present(0..3));
        std::fs::rename(file(dir.path(), NEWER), file(dir.path(), OLDER)).unwrap();
        list.read_again();
        list.note(&layout, &present(3..6));
        remove(&layout, ADDRESS, &[path(1), path(4)].into()).unwrap();
        assert_eq!(numbers(&layout), [0, 2, 3, 5]);
        list.read_again();
        list.note(&layout, &present(0..6));
        assert_eq!(numbers(&layout), [0, 2, 3, 5, 1, 4]);
    }
}
