//! The parts of replies that are more than integers, strings and lists: store paths, hashes, path infos, NARs.

use std::collections::BTreeSet;
use std::io::{BufRead, Read};
use std::sync::Arc;

use nix_derivation::{StoreDir, StorePath};

use super::protocol_error::ProtocolError;
use super::stderr;
use super::wire::{read_bool, read_list, read_string, read_u64};
use crate::format::nar_scanner::Scanner;
use crate::format::path_info::PathInfo;

/// Reads the path info of `path`; `None` if the path is not valid.
pub(super) fn read_path_info(
    from: &mut impl Read,
    store_dir: &StoreDir,
    path: Arc<StorePath>,
) -> Result<Option<PathInfo>, ProtocolError> {
    if !read_bool(from)? {
        return Ok(None);
    }
    // The fields stand in the order of the protocol: a struct expression evaluates them in the order written.
    Ok(Some(PathInfo {
        path,
        deriver: optional_path(store_dir, &read_string(from)?)?,
        nar_hash: sha256(&read_string(from)?)?,
        references: read_list(from, |from| store_path(store_dir, &read_string(from)?))?.into_iter().collect(),
        registration_time: read_u64(from)?,
        nar_size: read_u64(from)?,
        ultimate: read_bool(from)?,
        signatures: read_list(from, read_string)?.into(),
        ca: Some(read_string(from)?).filter(|ca| !ca.is_empty()),
    }))
}

/// Reads a set of store paths.
pub(super) fn read_paths(
    from: &mut impl Read,
    store_dir: &StoreDir,
) -> Result<BTreeSet<StorePath>, ProtocolError> {
    let paths = read_list(from, |from| store_path(store_dir, &read_string(from)?))?;
    Ok(paths.into_iter().collect())
}

/// Copies exactly one NAR and returns its length. (A decoder that looks for bytes after the NAR would wait for bytes
/// that never come.)
pub(super) fn copy_nar(
    from: &mut impl BufRead,
    mut pass_on: impl FnMut(&[u8]) -> Result<(), ProtocolError>,
) -> Result<u64, ProtocolError> {
    let mut scanner = Scanner::new();
    while !scanner.is_done() {
        let piece = from.fill_buf()?;
        if piece.is_empty() {
            return Err(ProtocolError::Closed);
        }
        let before = scanner.offset();
        let scanned = scanner.push(piece, &mut ());
        let used = (scanner.offset() - before) as usize;
        if let Err(error) = scanned {
            from.consume(used);
            // When the daemon fails in the middle of a NAR, it sends an error in the place of the next token's length.
            return Err(match scanner.bad_length() {
                Some(stderr::ERROR) => match stderr::read_error(from) {
                    Ok(message) => ProtocolError::Daemon(message),
                    Err(error) => error,
                },
                _ => ProtocolError::malformed(format!("the NAR is malformed, {error}")),
            });
        }
        pass_on(&piece[..used])?;
        from.consume(used);
    }
    Ok(scanner.offset())
}

/// Parses a store path.
pub(super) fn store_path(store_dir: &StoreDir, text: &str) -> Result<StorePath, ProtocolError> {
    store_dir.parse_path(text.as_bytes()).map_err(|error| {
        ProtocolError::malformed(format!("`{text}` is not a path of the store `{store_dir}`: {error}"))
    })
}

/// Parses a store path; an empty text stands for none.
pub(super) fn optional_path(store_dir: &StoreDir, text: &str) -> Result<Option<StorePath>, ProtocolError> {
    if text.is_empty() { Ok(None) } else { store_path(store_dir, text).map(Some) }
}

/// Parses a SHA-256 in base 16.
fn sha256(text: &str) -> Result<[u8; 32], ProtocolError> {
    let mut hash = [0; 32];
    let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
    let well_formed = digits.len() == 64
        && digits.chunks(2).zip(&mut hash).all(|(pair, byte)| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'));
            pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).map(|value| *byte = value).is_some()
        });
    if well_formed {
        Ok(hash)
    } else {
        Err(ProtocolError::malformed(format!("`{text}` is not a SHA-256 in base 16")))
    }
}
