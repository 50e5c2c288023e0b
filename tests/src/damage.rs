//! Damaged buckets: each kind of damage that `larder verify` knows, planted where a path is sound.

use crate::nix::{hash_part, narinfo_key};
use crate::s3::tag;
use crate::world::{BUCKET, Target, field};
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// The age of what a dead writer has left: more than a day.
const OLD: Duration = Duration::from_secs(3 * 24 * 3600);
/// A derivation that nobody has built.
const NO_DERIVATION: &str = "0c5b8vw40dy178xlpddw65q9gf1h2186-never-built.drv";

/// A kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// `nix-cache-info` is rubbish. Nothing else can then be verified.
    CacheInfo,
    /// The marker of the format is gone.
    NoMarker,
    /// The narinfo is rubbish of the same size.
    Rubbish,
    /// The narinfo ends in the middle.
    Cut,
    /// The narinfo is that of another path.
    OtherPath,
    /// The narinfo leads to a NAR on another server.
    ForeignUrl,
    /// The narinfo has a malformed signature besides the sound one.
    BadSignature,
    /// The signature is not one of the key that it names.
    Forged,
    /// The narinfo has no signature.
    Unsigned,
    /// The NAR is gone.
    NoNar,
    /// The NAR ends in the middle.
    ShortNar,
    /// A byte of the NAR has changed.
    RottenNar,
    /// `FileHash`, which no signature covers, is that of other bytes.
    OtherFileHash,
    /// The narinfo is gone, and another path refers to it.
    NoNarinfo,
    /// A NAR that no narinfo names.
    OrphanNar,
    /// A listing without a narinfo.
    OrphanListing,
    /// A build log of a derivation without an output in the bucket.
    OrphanLog,
    /// The lease of a writer that died days ago.
    DeadLease,
    /// A multipart upload of a writer that died.
    UnfinishedUpload,
    /// An object of nobody.
    Unknown,
}

/// The paths that a damage concerns.
#[derive(Clone, Copy, Debug)]
pub struct Victim<'v> {
    /// The path that becomes unusable.
    pub path: &'v str,
    /// A path that refers to it.
    pub referrer: &'v str,
    /// A path that stays sound.
    pub sound: &'v str,
}

impl Damage {
    /// All kinds.
    pub const ALL: [Self; 20] = [
        Self::CacheInfo,
        Self::NoMarker,
        Self::Rubbish,
        Self::Cut,
        Self::OtherPath,
        Self::ForeignUrl,
        Self::BadSignature,
        Self::Forged,
        Self::Unsigned,
        Self::NoNar,
        Self::ShortNar,
        Self::RottenNar,
        Self::OtherFileHash,
        Self::NoNarinfo,
        Self::OrphanNar,
        Self::OrphanListing,
        Self::OrphanLog,
        Self::DeadLease,
        Self::UnfinishedUpload,
        Self::Unknown,
    ];

    /// The kind of the fault, by its name in the output of `larder verify --json`.
    pub fn fault(self) -> &'static str {
        match self {
            Self::CacheInfo => "cache-info",
            Self::NoMarker => "marker",
            Self::Rubbish | Self::Cut => "narinfo-malformed",
            Self::OtherPath => "narinfo-of-other-path",
            Self::ForeignUrl => "narinfo-unfit-nar",
            Self::BadSignature => "signature-malformed",
            Self::Forged | Self::Unsigned => "untrusted",
            Self::NoNar => "nar-missing",
            Self::ShortNar => "nar-size",
            Self::RottenNar => "nar-contents",
            Self::OtherFileHash => "file-hash",
            Self::NoNarinfo => "reference-missing",
            Self::OrphanNar => "orphan-nar",
            Self::OrphanListing => "orphan-listing",
            Self::OrphanLog => "orphan-log",
            Self::DeadLease => "dead-writer",
            Self::UnfinishedUpload => "unfinished-upload",
            Self::Unknown => "unknown-object",
        }
    }

    /// Whether somebody fails because of it: `larder verify` then ends with 3.
    pub fn is_wrong(self) -> bool {
        self <= Self::RottenNar || self == Self::NoNarinfo
    }

    /// Whether only a look at the bytes of NARs (`--data`) finds it.
    pub fn is_in_nars(self) -> bool {
        matches!(self, Self::RottenNar | Self::OtherFileHash)
    }

    /// Whether it makes the path itself unusable.
    pub fn is_of_path(self) -> bool {
        self >= Self::Rubbish && self <= Self::NoNarinfo
    }

    /// Damages the bucket. Returns the object that `larder verify` names: a base name, a hash part or a key; `None` if the
    /// target cannot have this damage.
    pub fn plant(self, target: &Target, victim: Victim<'_>) -> Result<Option<String>> {
        let named = match self {
            Self::CacheInfo => put(target, "nix-cache-info", b"Priority: none\n")?,
            Self::NoMarker => delete(target, "larder/format.json")?,
            Self::OrphanNar | Self::OrphanListing | Self::OrphanLog | Self::DeadLease => {
                let key = self.left_over();
                put(target, &key, b"x")?;
                return Ok(target.make_older(&key, OLD)?.then_some(key));
            }
            Self::UnfinishedUpload => return begin_upload(target),
            Self::Unknown => put(target, "index.html", b"<html></html>")?,
            Self::NoNar => {
                delete(target, &nar_of(target, victim.path)?)?;
                basename(victim.path)
            }
            Self::ShortNar | Self::RottenNar => {
                let key = nar_of(target, victim.path)?;
                let nar = target.get(&key)?.context("no NAR")?;
                put(target, &key, &self.spoil_nar(nar))?;
                basename(victim.path)
            }
            Self::NoNarinfo => {
                delete(target, &narinfo_key(victim.path))?;
                basename(victim.referrer)
            }
            _ => self.spoil_narinfo(target, victim)?,
        };
        Ok(Some(named))
    }

    /// The key of what a writer leaves.
    fn left_over(self) -> String {
        match self {
            Self::OrphanNar => "nar/0000000000000000000000000000000000000000000000000000.nar.xz".into(),
            Self::OrphanListing => "0c5b8vw40dy178xlpddw65q9gf1h2186.ls".into(),
            Self::OrphanLog => format!("log/{NO_DERIVATION}"),
            _ => "larder/writers/0123456789abcdfghijklmnp.json".into(),
        }
    }

    fn spoil_nar(self, mut nar: Vec<u8>) -> Vec<u8> {
        let middle = nar.len() / 2;
        match self {
            Self::ShortNar => nar.truncate(middle),
            _ => nar[middle] ^= 0x10,
        }
        nar
    }

    fn spoil_narinfo(self, target: &Target, victim: Victim<'_>) -> Result<String> {
        let key = narinfo_key(victim.path);
        let text = |path: &str| -> Result<String> {
            let narinfo = target.get(&narinfo_key(path))?.with_context(|| format!("no narinfo of {path}"))?;
            Ok(String::from_utf8(narinfo)?)
        };
        let sound = text(victim.path)?;
        let signature = field(&sound, "Sig").context("no signature")?.to_owned();
        let spoilt = match self {
            Self::Rubbish => "x".repeat(sound.len()),
            Self::Cut => sound[..sound.len() / 2].to_owned(),
            Self::OtherPath => text(victim.sound)?,
            Self::ForeignUrl => sound.replace("URL: ", "URL: https://elsewhere.example/"),
            Self::BadSignature => format!("{sound}Sig: test-1:x\n"),
            Self::Forged => {
                let of_other = text(victim.sound)?;
                sound.replace(&signature, field(&of_other, "Sig").context("no signature")?)
            }
            Self::Unsigned => sound.replace(&format!("Sig: {signature}\n"), ""),
            Self::OtherFileHash => {
                let hash = field(&sound, "FileHash").context("no FileHash")?.to_owned();
                let of_other = text(victim.sound)?;
                sound.replace(&hash, field(&of_other, "FileHash").context("no FileHash")?)
            }
            other => anyhow::bail!("{other:?} is no damage of a narinfo"),
        };
        ensure!(spoilt != sound, "{self:?} has changed nothing");
        put(target, &key, spoilt.as_bytes())?;
        // Of a narinfo that says nothing reliable, only the key is known.
        let is_nameless = matches!(self, Self::Rubbish | Self::Cut | Self::OtherPath);
        Ok(if is_nameless { hash_part(victim.path).to_owned() } else { basename(victim.path) })
    }
}

fn basename(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

fn put(target: &Target, key: &str, bytes: &[u8]) -> Result<String> {
    target.put(key, bytes)?;
    Ok(key.to_owned())
}

fn delete(target: &Target, key: &str) -> Result<String> {
    target.delete(key)?;
    Ok(key.to_owned())
}

/// The key of the NAR of a path.
pub fn nar_of(target: &Target, path: &str) -> Result<String> {
    let narinfo = target.get(&narinfo_key(path))?.with_context(|| format!("no narinfo of {path}"))?;
    Ok(field(&String::from_utf8(narinfo)?, "URL").context("no URL")?.to_owned())
}

/// Begins an upload as a writer does, and leaves it.
fn begin_upload(target: &Target) -> Result<Option<String>> {
    let Target::Server(server) = target else { return Ok(None) };
    let key = format!("nar/{}-zzzzzzzz89abcdfg.nar.zst", "0".repeat(52));
    let path = format!("/{BUCKET}/{key}");
    let begun = server.client().send("POST", &path, &[("uploads", "")], &[], b"")?.ok()?.text();
    tag(&begun, "UploadId").context("no upload was begun")?;
    // Not every server lists uploads.
    let listed =
        server.client().send("GET", &format!("/{BUCKET}"), &[("uploads", "")], &[], b"")?.ok()?.text();
    Ok(listed.contains(&key).then_some(key))
}
