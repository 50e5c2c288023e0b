//! The files and requests of a machine that reads, and the record of a set-up.

use std::cell::Cell;
use std::path::Path;
use std::sync::LazyLock;

use crate::client::nix_conf::{Block, NixConf};
use crate::client::relay::Caches;
use crate::setup::Manifest;

/// The most files that reading one configuration may take.
const MOST_FILES: usize = 2_000;

/// `nix.conf` and the files `1`, `2`, … that it may include, separated by zero bytes. larder's block in the first file can
/// be added, changed and removed, and the rest of the file stays as it is.
pub(super) fn nix_conf(bytes: &[u8]) {
    let texts: Vec<_> = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let count = Cell::new(0);
    let read = |path: &Path| {
        let number = path.file_name().and_then(|name| name.to_str()?.parse::<usize>().ok());
        let text = number.and_then(|number| texts.get(number));
        count.set(count.get() + usize::from(text.is_some()));
        Ok(text.map(|text| text.to_string()))
    };
    let conf = NixConf::read(Path::new("/etc/nix/0"), &read);
    assert!(count.get() <= MOST_FILES, "{} files were read", count.get());
    if let Ok(conf) = conf {
        for name in ["substituters", "trusted-public-keys", "post-build-hook", "netrc-file"] {
            for origin in conf.origins(name) {
                assert!(origin.line > 0 && conf.files().contains(&origin.file));
                assert!(origin.value.iter().all(|word| !word.contains(['#', ' ', '\n'])), "{origin:?}");
            }
        }
    }

    let text = &*texts[0];
    let block = Block::split(Some(text));
    for lines in ["post-build-hook = /x\n", "a = b\nc = d\n"] {
        let with = block.with(lines);
        let again = Block::split(Some(&with));
        assert_eq!((again.rest, again.lines.as_deref()), (block.rest.clone(), Some(lines)), "{with:?}");
    }
}

/// The record of a set-up: parsing the written text gives the same record.
pub(super) fn manifest(bytes: &[u8]) {
    if let Some(manifest) = Manifest::parse(&String::from_utf8_lossy(bytes)) {
        assert_eq!(Manifest::parse(&manifest.to_json()).as_ref(), Some(&manifest), "{}", manifest.to_json());
    }
}

static CACHES: LazyLock<Caches> = LazyLock::new(|| {
    let words = ["lan=http://127.0.0.1:9/bucket", "other=https://127.0.0.1:9"].map(str::to_owned);
    Caches::new(&words, None, Box::new(|_| {})).expect("caches")
});

/// The path of a request to the relay: it goes to the cache that it names, and to a path below that cache.
pub(super) fn relay_path(bytes: &[u8]) {
    let path = String::from_utf8_lossy(bytes);
    let Some((name, below)) = CACHES.target(&path) else { return };
    assert_eq!(path, format!("/{name}{below}"));
    assert!(below.starts_with('/') && !below.contains('?'), "{path}");
    for part in below[1..].split('/') {
        let part = percent_encoding::percent_decode_str(part).decode_utf8_lossy();
        assert!(!matches!(&*part, "" | "." | ".."), "{path}");
        assert!(part.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '/' | '\\' | '#' | '%')), "{path}");
    }
}
