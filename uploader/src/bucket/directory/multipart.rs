//! Multipart uploads into a directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::mem;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::files::{Temporary, Tree, finish};
use crate::base::error::{Area, Error, Result};
use crate::base::file::blocking;
use crate::base::lock::lock;
use crate::bucket::interface::{Body, Multipart};

/// An upload into one unfinished file.
///
/// The next part in order is appended to the file. A part that comes early waits in a file of its own. That needs neither
/// memory nor parts of equal size.
pub(super) struct DirectoryMultipart {
    object: String,
    key: String,
    state: Arc<Mutex<State>>,
}

struct State {
    files: Arc<Tree>,
    temporary: Option<Temporary>,
    file: File,
    /// The offset of the next part, in bytes.
    end: u64,
    /// The number of the next part.
    next: u32,
    early: BTreeMap<u32, Temporary>,
}

impl DirectoryMultipart {
    pub(super) fn start(files: &Arc<Tree>, key: String, object: String) -> io::Result<Self> {
        let (temporary, file) = files.temporary()?;
        let state = State {
            files: Arc::clone(files),
            temporary: Some(temporary),
            file,
            end: 0,
            next: 1,
            early: BTreeMap::new(),
        };
        Ok(Self { object, key, state: Arc::new(Mutex::new(state)) })
    }

    fn what(&self, verb: &str) -> String {
        format!("cannot {verb} {}", self.object)
    }
}

impl State {
    /// Appends the next part, and the parts that waited for it.
    fn append(&mut self, body: &[u8]) -> io::Result<()> {
        // A failed attempt may have left bytes after the end. They are overwritten.
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(body)?;
        self.advance(body.len() as u64);
        while let Some(early) = self.early.first_entry().filter(|entry| *entry.key() == self.next) {
            let mut part = File::open(early.get().path())?;
            self.file.seek(SeekFrom::Start(self.end))?;
            let size = io::copy(&mut part, &mut self.file)?;
            early.remove();
            self.advance(size);
        }
        Ok(())
    }

    fn advance(&mut self, size: u64) {
        self.end += size;
        self.next += 1;
    }
}

#[async_trait]
impl Multipart for DirectoryMultipart {
    async fn part(&self, number: u32, body: Body) -> Result<()> {
        let state = Arc::clone(&self.state);
        blocking(self.what(&format!("send part {number} of")), move || {
            let files = {
                let mut state = lock(&state);
                if number < state.next {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "the part was sent before"));
                }
                if number == state.next {
                    return state.append(&body.bytes);
                }
                Arc::clone(&state.files)
            };
            let (temporary, mut file) = files.temporary()?;
            file.write_all(&body.bytes)?;
            let mut state = lock(&state);
            if number == state.next {
                // The previous part was appended in the meantime.
                return state.append(&body.bytes);
            }
            state.early.insert(number, temporary);
            Ok(())
        })
        .await
    }

    async fn complete(self: Box<Self>) -> Result<()> {
        let what = self.what("finish the upload of");
        let (state, key) = (Arc::clone(&self.state), self.key.clone());
        let whole = {
            let mut state = lock(&state);
            let whole = state.next > 1 && state.early.is_empty();
            if whole { state.temporary.take() } else { None }
        };
        let Some(temporary) = whole else {
            return Err(Error::permanent(Area::Bucket, what).because("parts are missing"));
        };
        blocking(what, move || {
            let state = lock(&state);
            state.file.set_len(state.end)?;
            finish(&state.file)?;
            let _lock = state.files.lock_shared()?;
            temporary.replace(&key)
        })
        .await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let mut state = lock(&self.state);
        drop((state.temporary.take(), mem::take(&mut state.early)));
        Ok(())
    }
}
