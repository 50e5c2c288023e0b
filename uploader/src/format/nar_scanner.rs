//! An incremental parser of NARs. It takes bytes in pieces of any size and reports files, symbolic links and
//! directories.
//!
//! The scanner skips the contents of files. It stops exactly at the end of the NAR.

use std::fmt;

/// The greatest depth of directories, which is also the limit of Nix since 2.34. Older versions have none.
const MAX_DEPTH: usize = 64;

/// The length of the longest keyword, `nix-archive-1`.
const MAX_KEYWORD: u64 = 13;

/// The length of the longest name or link target that the scanner accepts.
const MAX_TEXT: u64 = 64 << 10;

/// Receives the nodes of a NAR in the order of the NAR. `name` is `None` for the root.
pub trait Visit {
    /// A directory begins.
    fn directory(&mut self, name: Option<&[u8]>);
    /// The innermost directory ends.
    fn end_directory(&mut self);
    /// A regular file of `size` bytes. Its contents begin at byte `offset` of the NAR.
    fn regular(&mut self, name: Option<&[u8]>, executable: bool, size: u64, offset: u64);
    /// A symbolic link.
    fn symlink(&mut self, name: Option<&[u8]>, target: &[u8]);
}

/// Ignores all nodes, for callers that only need the end of the NAR.
impl Visit for () {
    fn directory(&mut self, _: Option<&[u8]>) {}
    fn end_directory(&mut self) {}
    fn regular(&mut self, _: Option<&[u8]>, _: bool, _: u64, _: u64) {}
    fn symlink(&mut self, _: Option<&[u8]>, _: &[u8]) {}
}

/// The error for bytes that are not a NAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanError {
    offset: u64,
    what: String,
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.offset, self.what)
    }
}

impl std::error::Error for ScanError {}

/// The place of the next token in the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Magic,
    Open,
    Type,
    Kind,
    ExecutableOrContents,
    ExecutableValue,
    ContentsKey,
    Contents,
    TargetKey,
    Target,
    Close,
    EntryOrEnd,
    EntryOpen,
    NameKey,
    Name,
    NodeKey,
    EntryClose,
    Done,
}

/// The part of a token that the next byte belongs to, with the number of missing bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Length,
    Text(u64),
    Contents(u64),
    Padding(usize),
}

/// An incremental parser of one NAR.
#[derive(Debug)]
pub struct Scanner {
    offset: u64,
    next: Next,
    part: Part,
    number: [u8; 8],
    have: usize,
    pad: usize,
    token: Vec<u8>,
    executable: bool,
    /// The name of the last entry of each open directory.
    names: Vec<Vec<u8>>,
    failed: Option<ScanError>,
    bad_length: Option<u64>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// A scanner before the first byte.
    pub fn new() -> Self {
        Self {
            offset: 0,
            next: Next::Magic,
            part: Part::Length,
            number: [0; 8],
            have: 0,
            pad: 0,
            token: Vec::new(),
            executable: false,
            names: Vec::new(),
            failed: None,
            bad_length: None,
        }
    }

    /// Whether the NAR is complete.
    pub fn is_done(&self) -> bool {
        self.next == Next::Done && self.part == Part::Length
    }

    /// The number of bytes taken so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The number in the place of a token's length that is too large for a length.
    pub(crate) fn bad_length(&self) -> Option<u64> {
        self.bad_length
    }

    /// Takes bytes up to the end of the NAR and returns the number of bytes taken.
    ///
    /// # Errors
    /// The bytes are not a NAR. Every later call returns the same error.
    pub fn push(&mut self, bytes: &[u8], visitor: &mut impl Visit) -> Result<usize, ScanError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut rest = bytes;
        while !rest.is_empty() && !self.is_done() {
            let taken = match self.part {
                Part::Length => self.length(rest),
                Part::Text(missing) => {
                    let taken = at_most(missing, rest);
                    self.token.extend_from_slice(&rest[..taken]);
                    self.part = Part::Text(missing - taken as u64);
                    taken
                }
                Part::Contents(missing) => {
                    let taken = at_most(missing, rest);
                    self.part = Part::Contents(missing - taken as u64);
                    taken
                }
                Part::Padding(missing) => {
                    let taken = missing.min(rest.len());
                    if rest[..taken].iter().any(|byte| *byte != 0) {
                        return Err(self.fail("non-zero padding"));
                    }
                    self.part = Part::Padding(missing - taken);
                    taken
                }
            };
            self.offset += taken as u64;
            rest = &rest[taken..];
            if let Err(what) = self.advance(visitor) {
                return Err(self.fail(what));
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn fail(&mut self, what: impl Into<String>) -> ScanError {
        self.failed.insert(ScanError { offset: self.offset, what: what.into() }).clone()
    }

    fn length(&mut self, rest: &[u8]) -> usize {
        let taken = rest.len().min(8 - self.have);
        self.number[self.have..self.have + taken].copy_from_slice(&rest[..taken]);
        self.have += taken;
        taken
    }

    /// Proceeds through the parts that are complete.
    fn advance(&mut self, visitor: &mut impl Visit) -> Result<(), String> {
        if self.part == Part::Length {
            if self.have < 8 {
                return Ok(());
            }
            self.have = 0;
            let length = u64::from_le_bytes(self.number);
            self.pad = (length.wrapping_neg() % 8) as usize;
            if self.next == Next::Contents {
                let name = self.names.last().map(Vec::as_slice);
                visitor.regular(name, self.executable, length, self.offset);
                self.part = Part::Contents(length);
            } else {
                let limit =
                    if matches!(self.next, Next::Name | Next::Target) { MAX_TEXT } else { MAX_KEYWORD };
                if length > limit {
                    self.bad_length = Some(length);
                    return Err(format!("a token of {length} bytes"));
                }
                self.token.clear();
                self.part = Part::Text(length);
            }
        }
        if matches!(self.part, Part::Text(0) | Part::Contents(0)) {
            self.part = Part::Padding(self.pad);
        }
        if self.part == Part::Padding(0) {
            self.part = Part::Length;
            self.next = self.token(visitor)?;
        }
        Ok(())
    }

    /// Handles a complete token and returns the place of the token that follows.
    fn token(&mut self, visitor: &mut impl Visit) -> Result<Next, String> {
        let follows = match (self.next, self.token.as_slice()) {
            (Next::Magic, b"nix-archive-1") => Next::Open,
            (Next::Open, b"(") => Next::Type,
            (Next::Type, b"type") => Next::Kind,
            (Next::Kind, b"regular") => {
                self.executable = false;
                Next::ExecutableOrContents
            }
            (Next::Kind, b"symlink") => Next::TargetKey,
            (Next::Kind, b"directory") => {
                visitor.directory(self.names.last().map(Vec::as_slice));
                self.names.push(Vec::new());
                Next::EntryOrEnd
            }
            (Next::ExecutableOrContents, b"executable") => {
                self.executable = true;
                Next::ExecutableValue
            }
            (Next::ExecutableValue, b"") => Next::ContentsKey,
            (Next::ExecutableOrContents | Next::ContentsKey, b"contents") => Next::Contents,
            (Next::Contents, _) => Next::Close,
            (Next::TargetKey, b"target") => Next::Target,
            (Next::Target, target) => {
                visitor.symlink(self.names.last().map(Vec::as_slice), target);
                Next::Close
            }
            (Next::Close, b")") => self.after_node(),
            (Next::EntryOrEnd, b")") => {
                visitor.end_directory();
                self.names.pop();
                self.after_node()
            }
            (Next::EntryOrEnd, b"entry") => Next::EntryOpen,
            (Next::EntryOpen, b"(") => Next::NameKey,
            (Next::NameKey, b"name") => Next::Name,
            (Next::Name, _) => self.name()?,
            (Next::NodeKey, b"node") if self.names.len() >= MAX_DEPTH => {
                return Err(format!("directories deeper than {MAX_DEPTH}"));
            }
            (Next::NodeKey, b"node") => Next::Open,
            (Next::EntryClose, b")") => Next::EntryOrEnd,
            (_, token) => return Err(format!("`{}` is not expected here", String::from_utf8_lossy(token))),
        };
        Ok(follows)
    }

    /// Handles the name of an entry. Names must be valid file names in ascending order.
    fn name(&mut self) -> Result<Next, String> {
        let name = self.token.as_slice();
        if matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(format!("`{}` is not a file name", String::from_utf8_lossy(name)));
        }
        match self.names.last_mut() {
            Some(last) if name > last.as_slice() => std::mem::swap(last, &mut self.token),
            _ => return Err(format!("`{}` is out of order", String::from_utf8_lossy(name))),
        }
        Ok(Next::NodeKey)
    }

    fn after_node(&self) -> Next {
        if self.names.is_empty() { Next::Done } else { Next::EntryClose }
    }
}

fn at_most(missing: u64, rest: &[u8]) -> usize {
    usize::try_from(missing).map_or(rest.len(), |missing| missing.min(rest.len()))
}
