//! Making the narinfo of a path, and telling how one that stands in the bucket relates to the path in the store.
//!
//! Format and order of fields: Nix's `NarInfo::to_string`; the last newline and the blank behind an empty
//! `References:` are mandatory.

use nix_derivation::hash::{CAHash, NixHash};
use nix_derivation::store_path::{StoreDir, StorePath};
use nix_narinfo::{Compression as Label, NarInfo, NixSignature};

use super::object_keys::{self, Compression};
use super::signature::SecretKey;
use crate::base::error::{Area, Cause, Error, Result};
use crate::format::path_info::PathInfo;

/// A NAR that lies in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NarObject {
    /// Its key.
    pub key: String,
    /// How it is compressed.
    pub compression: Compression,
    /// SHA-256 of the object's bytes, where known first-hand or from a standing narinfo.
    pub file_hash: Option<[u8; 32]>,
    /// Size of the object in bytes.
    pub file_size: Option<u64>,
}

/// How a narinfo that stands in the bucket relates to the path in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It describes the same contents and carries all our signatures.
    Complete,
    /// It describes the same contents; this one, with our signatures added, should take its place.
    LacksSignatures(Vec<u8>),
    /// It describes other contents: the build is not reproducible, and another machine's result was first.
    Differs,
}

/// What a signature of this path covers.
pub fn fingerprint(store_dir: &StoreDir, info: &PathInfo) -> String {
    let references: Vec<_> = info.references.iter().map(|path| store_dir.render_path(path)).collect();
    let hash = NixHash::Sha256(info.nar_hash).to_nix_nixbase32_string();
    format!("1;{};{hash};{};{}", store_dir.render_path(&info.path), info.nar_size, references.join(","))
}

/// Whether the path is named by its contents, so that it needs no signature: the path is computed again from its `CA`.
pub fn is_content_addressed(store_dir: &StoreDir, info: &PathInfo) -> bool {
    info.ca.is_some()
        && build(store_dir, info, "x", Label::None, &[])
            .is_ok_and(|narinfo| narinfo.is_content_addressed(store_dir))
}

/// The bytes of the narinfo of a path whose NAR is `nar`, with the signatures that the store knows and those of `keys`.
pub fn compose(
    store_dir: &StoreDir,
    info: &PathInfo,
    nar: &NarObject,
    keys: &[SecretKey],
) -> Result<Vec<u8>> {
    let mut builder = build_with(store_dir, info, &nar.key, label(nar.compression), keys)?;
    builder = builder.file_hash(nar.file_hash.map(NixHash::Sha256)).file_size(nar.file_size);
    Ok(render(&builder.build().map_err(|error| unfit(info, error))?))
}

/// Whether a narinfo of `size` bytes can be one that [`compose`] made of this path with these keys, for a NAR of ours of
/// known size.
///
/// One that lacks a signature of ours and has no other in its place never can: a line of a signature is longer than
/// all that is open (how the NAR is compressed, how large that made it, whether its hash is known) can make up for.
pub fn fits(store_dir: &StoreDir, info: &PathInfo, keys: &[SecretKey], size: u64) -> bool {
    let Some(fixed) = fixed_size(store_dir, info, keys) else { return false };
    // What compresses badly grows a little.
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

/// Length of `FileHash: sha256:…` with its newline.
const FILE_HASH: usize = 70;
/// Length of a SHA-256 in nix-base32.
const SHA256: usize = 52;
/// Length of an ed25519 signature in base64.
const SIGNATURE: usize = 88;

/// The bytes of a narinfo that are the same however the NAR came to lie in the bucket; `None` where [`compose`] would
/// fail.
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

/// The sound signatures by others that the store knows, each once.
fn theirs(info: &PathInfo, keys: &[SecretKey]) -> Vec<NixSignature> {
    let ours = |name: &str| keys.iter().any(|key| key.name() == name);
    let known = info.signatures.iter().filter_map(|text| NixSignature::parse(text).ok());
    let mut signatures: Vec<_> = known.filter(|sig| is_sound(sig) && !ours(&sig.key_name)).collect();
    signatures.sort();
    signatures.dedup();
    signatures
}

/// Compares the narinfo `bytes` of the bucket with the path in the store.
pub fn standing(store_dir: &StoreDir, info: &PathInfo, bytes: &[u8], keys: &[SecretKey]) -> Result<Standing> {
    let present = parse(store_dir, info, bytes)?;
    let same = *present.nar_hash() == NixHash::Sha256(info.nar_hash)
        && present.nar_size() == info.nar_size
        && present.references().iter().eq(info.references.iter().map(|path| &**path))
        && *present.store_path() == *info.path;
    if !same {
        return Ok(Standing::Differs);
    }
    let fingerprint = present.fingerprint(store_dir);
    let lacking: Vec<_> = keys
        .iter()
        .filter(|key| {
            let public = [key.public()];
            !present
                .signatures()
                .iter()
                .any(|sig| sig.verify(fingerprint.as_bytes(), &public).unwrap_or(false))
        })
        .collect();
    if lacking.is_empty() {
        return Ok(Standing::Complete);
    }
    // A malformed signature makes clients refuse the whole file; one of ours that does not verify is replaced.
    let kept = present
        .signatures()
        .iter()
        .filter(|sig| is_sound(sig) && !lacking.iter().any(|key| key.name() == sig.key_name));
    let signatures: Vec<_> = kept.cloned().chain(lacking.iter().map(|key| key.sign(&fingerprint))).collect();
    let rewritten = NarInfo::builder_in(
        store_dir.clone(),
        present.store_path().clone(),
        present.url(),
        present.nar_hash().clone(),
        present.nar_size(),
    )
    .compression(present.compression().clone())
    .references(present.references().iter().cloned())
    .deriver(present.deriver().cloned())
    .content_address(present.content_address().cloned())
    .file_hash(present.file_hash().cloned())
    .file_size(present.file_size())
    .extensions(present.extensions().iter().cloned())
    .signatures(signatures)
    .build()
    .map_err(|error| unfit(info, error))?;
    Ok(Standing::LacksSignatures(render(&rewritten)))
}

fn parse(store_dir: &StoreDir, info: &PathInfo, bytes: &[u8]) -> Result<NarInfo> {
    NarInfo::parse_in(store_dir, bytes).map_err(|error| {
        Error::permanent(
            Area::Bucket,
            format!("the bucket's narinfo of `{}` is malformed", info.path.to_basename()),
        )
        .because(error)
        .hint("no client can read it; delete that object, and the path is pushed again")
    })
}

fn build(
    store_dir: &StoreDir,
    info: &PathInfo,
    url: &str,
    label: Label,
    keys: &[SecretKey],
) -> Result<NarInfo> {
    build_with(store_dir, info, url, label, keys)?.build().map_err(|error| unfit(info, error))
}

fn build_with(
    store_dir: &StoreDir,
    info: &PathInfo,
    url: &str,
    label: Label,
    keys: &[SecretKey],
) -> Result<nix_narinfo::NarInfoBuilder> {
    let ca = info.ca.as_deref().filter(|ca| !ca.is_empty()).map(CAHash::parse).transpose();
    let ca = ca.map_err(|error| unfit(info, error))?;
    let fingerprint = fingerprint(store_dir, info);
    let mut signatures = theirs(info, keys);
    signatures.extend(keys.iter().map(|key| key.sign(&fingerprint)));
    signatures.sort();
    let hash = NixHash::Sha256(info.nar_hash);
    Ok(NarInfo::builder_in(store_dir.clone(), (*info.path).clone(), url, hash, info.nar_size)
        .compression(label)
        .references(info.references.iter().map(|path| (**path).clone()))
        .deriver(info.deriver.clone())
        .content_address(ca)
        .signatures(signatures))
}

/// Whether clients can digest it: one of another length than 64 bytes under a name they trust makes them give up.
fn is_sound(signature: &NixSignature) -> bool {
    signature.canonicalized().is_ok_and(|signature| signature.encoded.len() == 88)
}

fn render(narinfo: &NarInfo) -> Vec<u8> {
    narinfo.to_canonical_bytes()
}

fn label(compression: Compression) -> Label {
    Label::parse(compression.name())
}

fn unfit(info: &PathInfo, cause: impl Into<Cause>) -> Error {
    Error::permanent(Area::Store, format!("cannot describe `{}` in a narinfo", info.path.to_basename()))
        .because(cause)
}

#[cfg(test)]
#[path = "narinfo_tests.rs"]
mod tests;
