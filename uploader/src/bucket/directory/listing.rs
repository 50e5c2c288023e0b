//! Listings of the files below a directory.

use std::cell::OnceCell;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

use walkdir::{DirEntry, WalkDir};

use super::files::{TEMPORARY, Tree, describe};
use crate::bucket::interface::{Cursor, Depth, ListPage, ObjectMeta, Position};
use crate::bucket::key_syntax;

/// The number of keys in a page.
const PAGE: usize = 1000;

/// The part of the tree that a listing covers.
struct Scope<'a> {
    files: &'a Tree,
    /// The time of the page, from its first object on.
    now: OnceCell<Option<SystemTime>>,
    prefix: &'a str,
    after: Option<&'a str>,
    depth: Depth,
}

/// An entry of a listing.
enum Found {
    Object(ObjectMeta),
    Folder(String),
}

/// One page of the keys that start with `prefix`, in ascending bytewise order. Fails if the root is missing.
pub(super) fn page(
    files: &Tree,
    prefix: &str,
    after: Option<&Cursor>,
    depth: Depth,
) -> std::io::Result<ListPage> {
    let after = after.map(|Cursor(Position::Key(key) | Position::Token(key))| key.as_str());
    let root = files.root();
    let scope = Scope { files, now: OnceCell::new(), prefix, after, depth };
    let mut page = ListPage::default();
    let base = prefix.rsplit_once('/').map_or("", |(base, _)| base);
    if !base.is_empty() && key_syntax::fault(base).is_some() {
        return Ok(page);
    }
    let start = root.join(base);
    if !base.is_empty() && !start.is_dir() {
        fs::metadata(root)?;
        return Ok(page);
    }
    let levels = if depth == Depth::OneLevel { 1 } else { usize::MAX };
    let walk = WalkDir::new(&start)
        .min_depth(1)
        .max_depth(levels)
        .sort_by(|a, b| sort_key(a).cmp(&sort_key(b)))
        .into_iter()
        .filter_entry(|entry| scope.may_hold(entry));
    for entry in walk {
        let entry = match entry {
            Ok(entry) => entry,
            // The entry was removed after its directory was read.
            Err(error) if vanished(&error) && error.depth() > 0 => continue,
            Err(error) => return Err(error.into()),
        };
        let last = match scope.found(&entry)? {
            None => continue,
            Some(Found::Object(object)) => {
                let key = object.key.clone();
                page.objects.push(object);
                key
            }
            Some(Found::Folder(folder)) => {
                page.folders.push(folder.clone());
                folder
            }
        };
        if page.objects.len() + page.folders.len() >= PAGE {
            page.next = Some(Cursor(Position::Token(last)));
            break;
        }
    }
    Ok(page)
}

impl Scope<'_> {
    /// Whether the entry or the entries below it can be part of the page.
    fn may_hold(&self, entry: &DirEntry) -> bool {
        let after = |key: &str| self.after.is_none_or(|after| key > after);
        match key_of(self.files.root(), entry) {
            // The root itself has no key.
            None => entry.depth() == 0,
            Some(key) if entry.file_type().is_dir() => {
                let folder = format!("{key}/");
                key != TEMPORARY
                    && (folder.starts_with(self.prefix) || self.prefix.starts_with(&folder))
                    && (after(&folder) || self.after.is_some_and(|after| after.starts_with(&folder)))
            }
            Some(key) => key.starts_with(self.prefix) && after(&key),
        }
    }

    /// The entry as the listing shows it, or `None` if the listing does not show it.
    fn found(&self, entry: &DirEntry) -> std::io::Result<Option<Found>> {
        let Some(key) = key_of(self.files.root(), entry).filter(|_| entry.depth() > 0) else {
            return Ok(None);
        };
        if entry.file_type().is_dir() {
            let folder = format!("{key}/");
            // An earlier page has the folder that holds the cursor.
            let listed_before = self.after.is_some_and(|after| after >= folder.as_str());
            let shown = self.depth == Depth::OneLevel && !listed_before && folder.starts_with(self.prefix);
            return Ok(shown.then_some(Found::Folder(folder)));
        }
        let meta = match fs::metadata(entry.path()) {
            Ok(meta) => meta,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            // A listing that lacks an object would make others look unneeded.
            Err(error) => return Err(error),
        };
        let now = *self.now.get_or_init(|| self.files.now());
        Ok(meta.is_file().then(|| Found::Object(describe(key, &meta, now))))
    }
}

/// A directory sorts as the keys below it: with the slash.
fn sort_key(entry: &DirEntry) -> Vec<u8> {
    let mut name = entry.file_name().as_encoded_bytes().to_vec();
    if entry.file_type().is_dir() {
        name.push(b'/');
    }
    name
}

fn vanished(error: &walkdir::Error) -> bool {
    error.io_error().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

/// The key of an entry; `None` for a name that cannot be a key, for example if it is not UTF-8.
fn key_of(root: &Path, entry: &DirEntry) -> Option<String> {
    let relative = entry.path().strip_prefix(root).ok()?;
    relative.to_str().filter(|key| !key.is_empty()).map(str::to_owned)
}
