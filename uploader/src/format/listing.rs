//! The listing of a NAR, `<hash>.ls`: its files, and the offsets of their contents in the NAR.
//!
//! larder makes the listing while the NAR streams, in the format that Nix writes with `write-nar-listing`.

use std::io::{self, Write};

use super::nar_scanner::{Scanner, Visit};
use crate::base::error::{Area, Error, Result};

/// The largest listing that larder makes, in bytes. It is enough for about half a million files.
pub const MAX_LISTING: usize = 64 << 20;

/// Makes the listing of a NAR that is written to it in pieces of any size.
///
/// Writing never fails, so a listing never stops an upload. [`finish`](Self::finish) returns the error.
#[derive(Debug)]
pub struct ListingWriter {
    scanner: Scanner,
    json: Json,
    trailing: bool,
}

impl Default for ListingWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl ListingWriter {
    /// A writer before the first byte of a NAR.
    pub fn new() -> Self {
        Self::with_limit(MAX_LISTING)
    }

    /// A writer with another limit than [`MAX_LISTING`], in bytes.
    pub fn with_limit(limit: usize) -> Self {
        let json = Json { text: String::from(r#"{"version":1,"root":"#), limit, problem: None };
        Self { scanner: Scanner::new(), json, trailing: false }
    }

    /// The listing in JSON.
    ///
    /// # Errors
    /// The bytes are not exactly one NAR, or the listing exceeds the limit, or a name is not UTF-8.
    pub fn finish(mut self) -> Result<String> {
        let scanned = self.scanner.push(&[], &mut self.json).err().map(|error| error.to_string());
        let problem = self.json.problem.or(scanned).or_else(|| {
            if !self.scanner.is_done() {
                Some("the NAR is incomplete".into())
            } else {
                self.trailing.then(|| "there are bytes after the NAR".into())
            }
        });
        if let Some(problem) = problem {
            return Err(Error::permanent(Area::General, "cannot list the files of a NAR").because(problem));
        }
        self.json.text.push('}');
        Ok(self.json.text)
    }
}

impl Write for ListingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.json.problem.is_none() {
            // The scanner keeps the error.
            let taken = self.scanner.push(bytes, &mut self.json);
            self.trailing |= taken.is_ok_and(|taken| taken < bytes.len());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Json {
    text: String,
    limit: usize,
    problem: Option<String>,
}

impl Json {
    /// Begins a node with its name, unless it is the root, and its type.
    fn node(&mut self, name: Option<&[u8]>, kind: &str) {
        if self.text.len() > self.limit {
            self.problem = Some(format!("the listing is longer than {} bytes", self.limit));
            self.text = String::new();
        }
        if self.problem.is_some() {
            return;
        }
        if let Some(name) = name {
            if !self.text.ends_with('{') {
                self.text.push(',');
            }
            self.string(name);
            self.text.push(':');
        }
        self.text.push_str(r#"{"type":""#);
        self.text.push_str(kind);
        self.text.push('"');
    }

    fn string(&mut self, bytes: &[u8]) {
        match std::str::from_utf8(bytes).ok().and_then(|text| serde_json::to_string(text).ok()) {
            Some(quoted) => self.text.push_str(&quoted),
            None => {
                let lossy = String::from_utf8_lossy(bytes);
                self.problem = Some(format!("`{lossy}` is not UTF-8, which JSON needs"));
            }
        }
    }
}

impl Visit for Json {
    fn directory(&mut self, name: Option<&[u8]>) {
        self.node(name, "directory");
        self.text.push_str(r#","entries":{"#);
    }

    fn end_directory(&mut self) {
        self.text.push_str("}}");
    }

    fn regular(&mut self, name: Option<&[u8]>, executable: bool, size: u64, offset: u64) {
        self.node(name, "regular");
        let executable = if executable { r#","executable":true"# } else { "" };
        self.text.push_str(&format!(r#","size":{size}{executable},"narOffset":{offset}}}"#));
    }

    fn symlink(&mut self, name: Option<&[u8]>, target: &[u8]) {
        self.node(name, "symlink");
        self.text.push_str(r#","target":"#);
        self.string(target);
        self.text.push('}');
    }
}

#[cfg(test)]
mod tests {
    use nix_archive::nar::{Event, NamedNode, Node, decode_events, encode_tree};
    use serde_json::{Value, json};

    use super::*;

    fn nar(tree: &Node<'_>) -> Vec<u8> {
        let mut nar = Vec::new();
        encode_tree(&mut nar, tree).unwrap();
        nar
    }

    fn sample() -> Vec<u8> {
        let regular = |executable, contents| Node::Regular { executable, contents };
        let inner = [
            NamedNode { name: b"empty", node: regular(false, b"") },
            NamedNode { name: "q\"\u{e4}".as_bytes(), node: regular(true, b"12345678") },
        ];
        let outer = [
            NamedNode { name: b"a", node: regular(true, b"contents of a") },
            NamedNode { name: b"dir", node: Node::Directory(&inner) },
            NamedNode { name: b"link", node: Node::Symlink { target: b"../t\\" } },
            NamedNode { name: b"none", node: Node::Directory(&[]) },
        ];
        nar(&Node::Directory(&outer))
    }

    fn listing(nar: &[u8], piece: usize) -> Result<String> {
        let mut writer = ListingWriter::new();
        nar.chunks(piece).for_each(|piece| writer.write_all(piece).unwrap());
        writer.finish()
    }

    #[test]
    fn a_listing_has_all_files_wherever_the_pieces_end() {
        let nar = sample();
        let offset =
            |contents: &[u8]| nar.windows(contents.len()).position(|window| window == contents).unwrap();
        let expected = json!({"version": 1, "root": {"type": "directory", "entries": {
            "a": {"type": "regular", "size": 13, "executable": true, "narOffset": offset(b"contents of a")},
            "dir": {"type": "directory", "entries": {
                "empty": {"type": "regular", "size": 0, "narOffset": offset(b"\x05\0\0\0\0\0\0\0empty") + 104},
                "q\"\u{e4}": {"type": "regular", "size": 8, "executable": true, "narOffset": offset(b"12345678")},
            }},
            "link": {"type": "symlink", "target": "../t\\"},
            "none": {"type": "directory", "entries": {}},
        }}});
        for piece in 1..nar.len() {
            let text = listing(&nar, piece).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected, "{piece}");
        }
    }

    #[test]
    fn a_root_may_be_a_file_or_a_link() {
        let file = listing(&nar(&Node::Regular { executable: false, contents: b"x" }), 7).unwrap();
        assert_eq!(file, r#"{"version":1,"root":{"type":"regular","size":1,"narOffset":96}}"#);
        let link = listing(&nar(&Node::Symlink { target: b"/t" }), 7).unwrap();
        assert_eq!(link, r#"{"version":1,"root":{"type":"symlink","target":"/t"}}"#);
    }

    #[test]
    fn incomplete_nars_and_bytes_after_a_nar_are_refused() {
        let nar = sample();
        for end in 0..nar.len() {
            assert!(listing(&nar[..end], 64).is_err(), "{end}");
        }
        let longer = [nar, vec![0]].concat();
        assert!(listing(&longer, 64).unwrap_err().to_string().contains("after the NAR"));
        assert!(listing(&longer, longer.len()).is_err());
        assert!(listing(&longer, longer.len() - 1).is_err());
    }

    #[test]
    fn the_scanner_and_the_decoder_accept_the_same_nars() {
        let nar = sample();
        for at in 0..nar.len() {
            for flip in [1, 8, 0x80, 0xff] {
                let mut broken = nar.clone();
                broken[at] ^= flip;
                let decoded = decode_events(&broken, |_: Event<'_>| Ok(()));
                let mut scanner = Scanner::new();
                let scanned = scanner.push(&broken, &mut ());
                let whole = scanned == Ok(broken.len()) && scanner.is_done();
                assert_eq!(whole, decoded.is_ok(), "byte {at} ^ {flip}: {scanned:?} {decoded:?}");
            }
        }
    }

    #[test]
    fn depth_names_and_size_are_bounded() {
        let mut deep = Vec::new();
        let token = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        };
        token(&mut deep, "nix-archive-1");
        for _ in 0..70 {
            ["(", "type", "directory", "entry", "(", "name", "x", "node"]
                .iter()
                .for_each(|t| token(&mut deep, t));
        }
        assert!(listing(&deep, 100).unwrap_err().to_string().contains("deeper than 64"));

        let mut writer = ListingWriter::with_limit(100);
        writer.write_all(&sample()).unwrap();
        assert!(writer.finish().unwrap_err().to_string().contains("longer than 100 bytes"));

        let odd = [NamedNode { name: b"\xff", node: Node::Directory(&[]) }];
        assert!(listing(&nar(&Node::Directory(&odd)), 9).unwrap_err().to_string().contains("not UTF-8"));
    }
}
