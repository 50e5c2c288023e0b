//! What a narinfo relies on: its path, the paths that it refers to, and the object that it names.

use nix_derivation::StorePath;

/// What a narinfo relies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPaths {
    /// The hash part of the path.
    pub path: [u8; 20],
    /// The hash parts of its references, without the path itself.
    pub references: Vec<[u8; 20]>,
    /// The URL of its NAR: a key in most caches.
    pub url: String,
}

impl NamedPaths {
    /// Reads the lines that name something. `None` if the path or the NAR is missing, or a path is none.
    pub fn read(narinfo: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(narinfo).ok()?;
        let value = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim_end))
        };
        let digest = |base: &str| StorePath::from_basename(base.as_bytes()).ok().map(|path| *path.digest());
        let path = digest(value("StorePath")?.rsplit('/').next()?)?;
        let references = value("References").unwrap_or_default().split(' ').filter(|base| !base.is_empty());
        let mut references = references.map(digest).collect::<Option<Vec<_>>>()?;
        references.retain(|reference| *reference != path);
        Some(Self { path, references, url: value("URL")?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_are_read_without_the_path_itself() {
        let narinfo = "StorePath: /nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-a\nURL: nar/x.nar.zst\nReferences: 0c5b8vw40dy178xlpddw65q9gf1h2186-a 1c5b8vw40dy178xlpddw65q9gf1h2186-b\n";
        let named = NamedPaths::read(narinfo.as_bytes()).unwrap();
        assert_eq!((named.references.len(), &*named.url), (1, "nar/x.nar.zst"));
        let none = narinfo.replace(
            "References: 0c5b8vw40dy178xlpddw65q9gf1h2186-a 1c5b8vw40dy178xlpddw65q9gf1h2186-b",
            "References: ",
        );
        assert_eq!(NamedPaths::read(none.as_bytes()).unwrap().references.len(), 0);
        assert_eq!(NamedPaths::read(narinfo.replace("-b", "/b").as_bytes()), None);
        assert_eq!(NamedPaths::read(b"StorePath: x\n"), None);
    }
}
