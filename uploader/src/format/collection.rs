//! The objects of a collection. `docs/collecting.md` describes what they mean, and who writes them.
//!
//! `condemned` and `final` are lists of paths and of NARs. A list is a header in JSON under the key itself, and numbered pieces
//! beside it, which are written before the header. A piece is text: `p <hash part>` names a path, `n <key>` the key of a NAR
//! or of another object, and `-` ends a level: the paths after it are deleted after those before it.

use nix_derivation::nixbase32;
use serde::{Deserialize, Serialize};

use super::object_keys;

/// The prefix of the keys of the objects of collections.
pub const COLLECTIONS: &str = "larder/collections/";
/// The prefix of the keys of tombstones: paths that no writer publishes again.
pub const TOMBSTONES: &str = "larder/collections/removed/";
/// The prefix of the keys of what collections have taken and can give back.
pub const COLLECTED: &str = "larder/collected/";
/// The longest piece, in bytes.
const PIECE: usize = 2 << 20;
/// The most pieces of a list.
const MOST_PIECES: u32 = 1000;

/// An object of a collection, from its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'k> {
    /// The header of the list of what may go.
    Condemned,
    /// No more rescues count.
    Closing,
    /// The header of the list of what goes.
    Final,
    /// The collection has ended.
    Done,
    /// Paths that a writer uses; what follows `rescues/`.
    Rescue(&'k str),
    /// A piece of a list.
    Piece,
}

impl Part<'_> {
    /// The id of the collection and the object in a key below [`COLLECTIONS`]; `None` for a tombstone and for a key that no
    /// version of larder writes.
    pub fn parse(key: &str) -> Option<(&str, Part<'_>)> {
        let (id, rest) = key.strip_prefix(COLLECTIONS)?.split_once('/')?;
        if object_keys::lease_id(&object_keys::lease(id)) != Some(id) {
            return None;
        }
        let part = match rest {
            "condemned" => Part::Condemned,
            "closing" => Part::Closing,
            "final" => Part::Final,
            "done" => Part::Done,
            _ => match rest.strip_prefix("rescues/") {
                Some(rescue) => Part::Rescue(rescue),
                None if rest.starts_with("condemned-") || rest.starts_with("final-") => Part::Piece,
                None => return None,
            },
        };
        Some((id, part))
    }

    /// The key of this object of the collection `id`.
    pub fn key(self, id: &str) -> String {
        let rest = match self {
            Self::Condemned => "condemned",
            Self::Closing => "closing",
            Self::Final => "final",
            Self::Done => "done",
            Self::Rescue(rescue) => return format!("{COLLECTIONS}{id}/rescues/{rescue}"),
            Self::Piece => "piece",
        };
        format!("{COLLECTIONS}{id}/{rest}")
    }
}

/// The key of a piece of the list with this key.
pub fn piece(list: &str, number: u32) -> String {
    format!("{list}-{number:04}")
}

/// The key of a piece of the narinfos that a collection has taken.
pub fn saved(id: &str, number: u32) -> String {
    format!("{COLLECTED}{id}/saved-{number:04}")
}

/// The key of the summary of what a collection has taken. It is written after all pieces.
pub fn summary(id: &str) -> String {
    format!("{COLLECTED}{id}/summary.json")
}

/// The id of the collection whose summary has this key; `None` for the key of any other object.
pub fn summary_id(key: &str) -> Option<&str> {
    key.strip_prefix(COLLECTED)?.strip_suffix("/summary.json").filter(|id| !id.contains('/'))
}

/// The id of the collection to whose pieces the object with this key belongs; `None` for the key of any other object.
pub fn piece_id(key: &str) -> Option<&str> {
    let (id, piece) = key.strip_prefix(COLLECTED)?.split_once('/')?;
    piece.starts_with("saved-").then_some(id)
}

/// The header of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Whether a person has asked for this collection: its paths cannot be rescued.
    #[serde(default)]
    pub removal: bool,
    /// The number of pieces.
    pub pieces: u32,
    /// The number of paths in all pieces.
    pub paths: usize,
    /// The number of NARs and other objects in all pieces.
    pub objects: usize,
}

/// What a collection has taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The number of paths.
    pub paths: usize,
    /// The number of pieces of their narinfos; 0 if they cannot be brought back.
    pub pieces: u32,
    /// The bytes of narinfos and NARs that nothing needs any more.
    pub bytes: u64,
    /// Who asked for it. Only people read this field.
    #[serde(default)]
    pub by: String,
}

/// A list of paths by levels, and of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// The paths, by the order in which they are deleted.
    pub levels: Vec<Vec<[u8; 20]>>,
    /// The keys of NARs and of other objects.
    pub objects: Vec<String>,
}

impl List {
    /// The number of paths.
    pub fn paths(&self) -> usize {
        self.levels.iter().map(Vec::len).sum()
    }

    /// The header, and the pieces.
    pub fn encode(&self, removal: bool) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut pieces = vec![Vec::new()];
        let mut line = |letter: &str, text: &str| {
            if pieces.last().is_some_and(|piece: &Vec<u8>| piece.len() > PIECE) {
                pieces.push(Vec::new());
            }
            if let Some(piece) = pieces.last_mut() {
                piece.extend_from_slice(format!("{letter}{text}\n").as_bytes());
            }
        };
        for level in &self.levels {
            level.iter().for_each(|digest| line("p ", &nixbase32::encode(digest)));
            line("-", "");
        }
        self.objects.iter().for_each(|key| line("n ", key));
        let header = Header {
            removal,
            pieces: u32::try_from(pieces.len()).unwrap_or(u32::MAX),
            paths: self.paths(),
            objects: self.objects.len(),
        };
        let mut json = serde_json::to_vec_pretty(&header).unwrap_or_default();
        json.push(b'\n');
        (json, pieces)
    }

    /// Reads the pieces of a list with this header. The error says what is wrong.
    pub fn decode(header: &Header, pieces: &[impl AsRef<[u8]>]) -> Result<Self, String> {
        let mut list = Self::default();
        let mut level = Vec::new();
        for piece in pieces {
            let text = std::str::from_utf8(piece.as_ref()).map_err(|error| error.to_string())?;
            for line in text.lines() {
                if line == "-" {
                    list.levels.push(std::mem::take(&mut level));
                } else if let Some(hash) = line.strip_prefix("p ") {
                    level.push(digest(hash)?);
                } else if let Some(key) = line.strip_prefix("n ") {
                    list.objects.push(key.to_owned());
                } else {
                    return Err(format!("`{}` is no line of a list", line.escape_debug()));
                }
            }
        }
        if !level.is_empty() {
            list.levels.push(level);
        }
        match (list.paths(), list.objects.len()) == (header.paths, header.objects) {
            true => Ok(list),
            false => Err("it has other numbers of paths and objects than its header says".into()),
        }
    }
}

impl Header {
    /// Reads a header. The error says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let header: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if header.pieces > MOST_PIECES {
            return Err(format!("{} pieces are too many", header.pieces));
        }
        Ok(header)
    }
}

/// Paths, one on each line: the contents of a rescue.
pub fn encode_paths<'a>(paths: impl IntoIterator<Item = &'a [u8; 20]>) -> Vec<u8> {
    paths.into_iter().flat_map(|digest| (nixbase32::encode(digest) + "\n").into_bytes()).collect()
}

/// Reads the contents of a rescue. The error says what is wrong.
pub fn decode_paths(bytes: &[u8]) -> Result<Vec<[u8; 20]>, String> {
    std::str::from_utf8(bytes).map_err(|error| error.to_string())?.lines().map(digest).collect()
}

fn digest(hash: &str) -> Result<[u8; 20], String> {
    let decoded = nixbase32::decode(hash.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    decoded.ok_or_else(|| format!("`{}` is no hash part of a store path", hash.escape_debug()))
}

/// The hash part of a path, and its narinfo.
pub type SavedNarinfo = ([u8; 20], Vec<u8>);

/// The narinfos that a collection takes, as they stand in the bucket: each after a line with its hash part and its length. An
/// entry without contents names a path to which they refer, and which the bucket did not have.
#[derive(Debug, Default)]
pub struct Saved(Vec<u8>);

impl Saved {
    /// Adds a narinfo.
    pub fn add(&mut self, digest: &[u8; 20], narinfo: &[u8]) {
        self.0.extend_from_slice(format!("{} {}\n", nixbase32::encode(digest), narinfo.len()).as_bytes());
        self.0.extend_from_slice(narinfo);
        self.0.push(b'\n');
    }

    /// The bytes so far, if they are enough for a piece.
    pub fn full(&mut self) -> Option<Vec<u8>> {
        (self.0.len() > PIECE).then(|| std::mem::take(&mut self.0))
    }

    /// The last bytes; `None` if nothing is left.
    pub fn rest(self) -> Option<Vec<u8>> {
        (!self.0.is_empty()).then_some(self.0)
    }

    /// Reads a piece. The error says what is wrong.
    pub fn decode(mut bytes: &[u8]) -> Result<Vec<SavedNarinfo>, String> {
        let mut narinfos = Vec::new();
        while !bytes.is_empty() {
            let broken = || "it is cut off or damaged".to_owned();
            let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(broken)?;
            let line = std::str::from_utf8(&bytes[..end]).map_err(|error| error.to_string())?;
            let (hash, length) = line.split_once(' ').ok_or_else(broken)?;
            let length: usize = length.parse().map_err(|_| broken())?;
            let rest = &bytes[end + 1..];
            let (narinfo, after) = rest.split_at_checked(length).ok_or_else(broken)?;
            narinfos.push((digest(hash)?, narinfo.to_vec()));
            bytes = after.strip_prefix(b"\n").ok_or_else(broken)?;
        }
        Ok(narinfos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let list = List {
            levels: vec![vec![[1; 20], [2; 20]], vec![[3; 20]]],
            objects: vec!["nar/a".into(), "x y.ls".into()],
        };
        let (header, pieces) = list.encode(true);
        let header = Header::parse(&header).unwrap();
        assert!(header.removal && header.pieces as usize == pieces.len());
        assert_eq!(List::decode(&header, &pieces), Ok(list));
        assert!(List::decode(&Header { paths: 4, ..header.clone() }, &pieces).is_err());
        assert!(List::decode(&header, &[b"x".to_vec()]).is_err());
        assert!(Header::parse(br#"{"pieces":5000,"paths":1,"objects":1}"#).is_err());
    }

    #[test]
    fn a_long_list_has_several_pieces() {
        let paths = (0..150_000_u32).map(|number| {
            let mut digest = [0; 20];
            digest[..4].copy_from_slice(&number.to_be_bytes());
            digest
        });
        let list = List { levels: vec![paths.collect()], objects: Vec::new() };
        let (header, pieces) = list.encode(false);
        assert!(pieces.len() > 2 && pieces.iter().all(|piece| piece.len() < 3 << 20));
        assert_eq!(List::decode(&Header::parse(&header).unwrap(), &pieces), Ok(list));
    }

    #[test]
    fn saved_narinfos_are_read_as_they_were() {
        let mut saved = Saved::default();
        saved.add(&[7; 20], b"StorePath: x\n");
        saved.add(&[8; 20], b"\xff\n\n");
        let bytes = saved.rest().unwrap();
        let read = Saved::decode(&bytes).unwrap();
        assert_eq!(read, [([7; 20], b"StorePath: x\n".to_vec()), ([8; 20], b"\xff\n\n".to_vec())]);
        assert!(Saved::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(Saved::decode(b"x\n").is_err());
    }

    #[test]
    fn every_object_of_a_collection_has_its_key() {
        let id = object_keys::new_writer();
        for part in [Part::Condemned, Part::Closing, Part::Final, Part::Done, Part::Rescue("a-1")] {
            assert_eq!(Part::parse(&part.key(&id)), Some((&*id, part)));
        }
        assert_eq!(Part::parse(&piece(&Part::Final.key(&id), 3)), Some((&*id, Part::Piece)));
        for key in ["larder/collections/x/final", "larder/collections/removed/x.json", "larder/x"] {
            assert_eq!(Part::parse(key), None, "{key}");
        }
        assert_eq!(summary_id(&summary(&id)), Some(&*id));
        let paths = [[1; 20], [2; 20]];
        assert_eq!(decode_paths(&encode_paths(&paths)).unwrap(), paths);
    }
}
