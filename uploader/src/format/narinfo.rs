//! Composes the narinfo of a path, and adds signatures to a narinfo in the bucket.
//!
//! The source of the format and of the order of fields is Nix's `NarInfo::to_string`. The last newline and the space
//! after an empty `References:` are mandatory.

use nix_derivation::hash::{CAHash, NixHash};
use nix_derivation::store_path::{StoreDir, StorePath};
use nix_narinfo::{Compression as Label, MAX_NARINFO_SIZE, NarInfo, NixSignature};

use super::named_nar::ObjectOfNar;
use super::object_keys::{self, Compression};
use super::signature::{SecretKey, signature_bytes};
use crate::base::error::{Area, Cause, Error, Result};
use crate::format::path_info::PathInfo;

/// A NAR in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NarObject {
    /// The object key.
    pub key: String,
    /// The compression.
    pub compression: Compression,
    /// The SHA-256 of the compressed NAR, if this writer has computed it or a narinfo in the bucket holds it.
    pub file_hash: Option<[u8; 32]>,
    /// The size of the compressed NAR in bytes.
    pub file_size: Option<u64>,
}

/// The fingerprint of a path, which signatures sign.
pub fn fingerprint(store_dir: &StoreDir, info: &PathInfo) -> String {
    let references: Vec<_> = info.references.iter().map(|path| store_dir.render_path(path)).collect();
    let hash = NixHash::Sha256(info.nar_hash).to_nix_nixbase32_string();
    format!("1;{};{hash};{};{}", store_dir.render_path(&info.path), info.nar_size, references.join(","))
}

/// Whether the path is content-addressed and so needs no signature. The function computes the path again from the
/// content address.
pub fn is_content_addressed(store_dir: &StoreDir, info: &PathInfo) -> bool {
    info.ca.is_some()
        && builder(store_dir, info, "x", Label::None, &[])
            .is_ok_and(|builder| builder.build().is_ok_and(|narinfo| narinfo.is_content_addressed(store_dir)))
}

/// Composes the narinfo of a path whose NAR is `nar`, with the signatures in the store and the signatures of `keys`.
///
/// # Errors
/// A narinfo cannot describe the path.
pub fn compose(
    store_dir: &StoreDir,
    info: &PathInfo,
    nar: &NarObject,
    keys: &[SecretKey],
) -> Result<Vec<u8>> {
    let mut builder = self::builder(store_dir, info, &nar.key, label(nar.compression), keys)?;
    builder = builder.file_hash(nar.file_hash.map(NixHash::Sha256)).file_size(nar.file_size);
    Ok(render(&builder.build().map_err(|error| unfit(&info.path, error))?))
}

/// Checks that larder can read back the narinfo that [`compose`] would make. Nix has no limit: 2.8, 2.26 and 2.34 read
/// a narinfo of more than 1 MiB.
///
/// # Errors
/// The narinfo may be larger than [`MAX_NARINFO_SIZE`], because the path has too many references.
pub fn check_size(store_dir: &StoreDir, info: &PathInfo, keys: &[SecretKey]) -> Result<()> {
    // A path that no narinfo can describe has an error of its own.
    let size = fixed_size(store_dir, info, keys).unwrap_or(0) + MOST_VARIABLE;
    if size > MAX_NARINFO_SIZE { Err(too_large(&info.path, info.references.iter().len())) } else { Ok(()) }
}

fn too_large(path: &StorePath, references: usize) -> Error {
    let cause =
        format!("with its {references} references, the narinfo is larger than {MAX_NARINFO_SIZE} bytes");
    unfit(path, cause).hint(
        "larder reads no larger narinfo; let the path refer to fewer paths, for example to lists that refer to the others",
    )
}

/// Whether a narinfo of `size` bytes can be the result of [`compose`] for this path and these keys, for a NAR that
/// larder has uploaded and whose compressed size is known.
///
/// A narinfo that lacks one of our signatures, and has no other signature instead, never has such a size: the line of a
/// signature is longer than the unknown parts of a narinfo can vary. The unknown parts are the compression of the NAR,
/// its compressed size, and whether its hash is known.
pub fn fits(store_dir: &StoreDir, info: &PathInfo, keys: &[SecretKey], size: u64) -> bool {
    let Some(fixed) = fixed_size(store_dir, info, keys) else { return false };
    // Compression can make a NAR slightly larger.
    let most_digits = digits(info.nar_size.saturating_add(info.nar_size / 64 + 1024));
    Compression::ALL.into_iter().any(|compression| {
        let url = object_keys::nar_length(compression);
        let least = fixed + url + compression.name().len();
        [0, FILE_HASH].into_iter().any(|hash| {
            let rest = usize::try_from(size).ok().and_then(|size| size.checked_sub(least + hash));
            rest.is_some_and(|rest| (1..=most_digits).contains(&rest))
        })
    })
}

/// The length of `FileHash: sha256:…` with its newline.
const FILE_HASH: usize = 70;
/// More than the parts of a narinfo that depend on the upload of the NAR: the key of the object, the compression, and
/// hash and size of the object.
const MOST_VARIABLE: usize = 512;
/// The length of a SHA-256 in nix-base32.
const SHA256: usize = 52;
/// The length of an ed25519 signature in base64.
const SIGNATURE: usize = 88;

/// The length of the parts of a narinfo that do not depend on the upload of the NAR; `None` if [`compose`] would fail.
fn fixed_size(store_dir: &StoreDir, info: &PathInfo, keys: &[SecretKey]) -> Option<usize> {
    let base = |path: &StorePath| object_keys::HASH_PART + 1 + path.name().len();
    let names =
        "StorePath: /\nURL: \nCompression: \nFileSize: \nNarHash: sha256:\nNarSize: \nReferences: \n".len();
    let references = info.references.iter().map(|path| base(path) + 1).sum::<usize>().saturating_sub(1);
    let theirs = theirs(info, keys);
    let signers = theirs.iter().map(|sig| sig.key_name.as_str()).chain(keys.iter().map(SecretKey::name));
    let signatures = signers.map(|name| "Sig: :\n".len() + name.len() + SIGNATURE).sum::<usize>();
    let deriver = info.deriver.as_ref().map_or(0, |deriver| "Deriver: \n".len() + base(deriver));
    let ca = match info.ca.as_deref().filter(|ca| !ca.is_empty()) {
        Some(ca) => "CA: \n".len() + CAHash::parse(ca).ok()?.to_nix_string().len(),
        None => 0,
    };
    let path = store_dir.as_str().len() + base(&info.path);
    Some(names + path + SHA256 + digits(info.nar_size) + references + deriver + signatures + ca)
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The well-formed signatures of other keys in the store, each once.
fn theirs(info: &PathInfo, keys: &[SecretKey]) -> Vec<NixSignature> {
    let ours = |name: &str| keys.iter().any(|key| key.name() == name);
    let known = info.signatures.iter().filter_map(|text| NixSignature::parse(text).ok());
    let mut signatures: Vec<_> = known.filter(|sig| is_well_formed(sig) && !ours(&sig.key_name)).collect();
    signatures.sort();
    signatures.dedup();
    signatures
}

/// Rewrites the narinfo `present` with the signatures of the keys `lacking`.
pub(super) fn add_signatures(
    store_dir: &StoreDir,
    present: &NarInfo,
    lacking: &[&SecretKey],
) -> Result<Vec<u8>> {
    let fingerprint = present.fingerprint(store_dir);
    // A malformed signature makes clients refuse the whole narinfo. An invalid signature of ours is replaced.
    let kept = present
        .signatures()
        .iter()
        .filter(|sig| is_well_formed(sig) && !lacking.iter().any(|key| key.name() == sig.key_name));
    let new = lacking.iter().map(|key| key.sign(&fingerprint)).collect::<Result<Vec<_>>>()?;
    let signatures: Vec<_> = kept.cloned().chain(new).collect();
    let rewritten = same_path(store_dir, present, present.url())
        .compression(present.compression().clone())
        .file_hash(present.file_hash().cloned())
        .file_size(present.file_size())
        .signatures(signatures);
    rendered(present, rewritten)
}

/// Rewrites the narinfo `present` so that it names another object with the same NAR. No signature covers what changes.
/// Malformed signatures, which make clients refuse the whole narinfo, are left out.
pub(super) fn point_to(store_dir: &StoreDir, present: &NarInfo, object: &ObjectOfNar) -> Result<Vec<u8>> {
    let kept: Vec<_> = present.signatures().iter().filter(|sig| is_well_formed(sig)).cloned().collect();
    let rewritten = same_path(store_dir, present, &object.key)
        .compression(Label::parse(object.label))
        .file_hash(Some(NixHash::Sha256(object.file_hash)))
        .file_size(Some(object.file_size))
        .signatures(kept);
    rendered(present, rewritten)
}

/// A narinfo with the facts about the path that `present` has.
fn same_path(store_dir: &StoreDir, present: &NarInfo, url: &str) -> nix_narinfo::NarInfoBuilder {
    let (path, hash) = (present.store_path().clone(), present.nar_hash().clone());
    NarInfo::builder_in(store_dir.clone(), path, url, hash, present.nar_size())
        .references(present.references().iter().cloned())
        .deriver(present.deriver().cloned())
        .content_address(present.content_address().cloned())
        .extensions(present.extensions().iter().cloned())
}

fn rendered(present: &NarInfo, rewritten: nix_narinfo::NarInfoBuilder) -> Result<Vec<u8>> {
    let rewritten = rewritten.build().map_err(|error| unfit(present.store_path(), error))?;
    let bytes = render(&rewritten);
    let references = present.references().len();
    if bytes.len() > MAX_NARINFO_SIZE { Err(too_large(present.store_path(), references)) } else { Ok(bytes) }
}

fn builder(
    store_dir: &StoreDir,
    info: &PathInfo,
    url: &str,
    label: Label,
    keys: &[SecretKey],
) -> Result<nix_narinfo::NarInfoBuilder> {
    let ca = info.ca.as_deref().filter(|ca| !ca.is_empty()).map(CAHash::parse).transpose();
    let ca = ca.map_err(|error| unfit(&info.path, error))?;
    let fingerprint = fingerprint(store_dir, info);
    let mut signatures = theirs(info, keys);
    for key in keys {
        signatures.push(key.sign(&fingerprint)?);
    }
    signatures.sort();
    let hash = NixHash::Sha256(info.nar_hash);
    Ok(NarInfo::builder_in(store_dir.clone(), (*info.path).clone(), url, hash, info.nar_size)
        .compression(label)
        .references(info.references.iter().map(|path| (**path).clone()))
        .deriver(info.deriver.clone())
        .content_address(ca)
        .signatures(signatures))
}

/// Whether clients accept the form of the signature. A signature of another length than 64 bytes, with the name of a
/// trusted key, makes clients fail.
pub(super) fn is_well_formed(signature: &NixSignature) -> bool {
    !signature.key_name.contains(':') && signature_bytes(signature).is_some()
}

fn render(narinfo: &NarInfo) -> Vec<u8> {
    narinfo.to_canonical_bytes()
}

fn label(compression: Compression) -> Label {
    Label::parse(compression.name())
}

fn unfit(path: &StorePath, cause: impl Into<Cause>) -> Error {
    Error::permanent(Area::Store, format!("cannot describe `{}` in a narinfo", path.to_basename()))
        .because(cause)
}

#[cfg(test)]
#[path = "narinfo_tests.rs"]
mod tests;
