//! The faults that a bucket can have: what each means for clients, and what helps.

use crate::format::summary::FaultKind;

/// Whom a fault hurts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Clients fail, or build what they should download.
    Clients,
    /// Writers stop.
    Writers,
    /// Nobody fails; objects take space.
    Waste,
    /// Nobody is hurt.
    Information,
}

impl Severity {
    /// The word in the JSON output.
    pub fn word(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Writers => "writers",
            Self::Waste => "waste",
            Self::Information => "information",
        }
    }

    /// Whether something is wrong: the command ends with another exit code than 0.
    pub fn is_wrong(self) -> bool {
        matches!(self, Self::Clients | Self::Writers)
    }
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `nix-cache-info` is missing or malformed.
    CacheInfo,
    /// The marker of the format is missing or malformed.
    Marker,
    /// The marker is of a format that this version of larder does not know.
    OtherFormat,
    /// The narinfo is at fault.
    Narinfo(FaultKind),
    /// A path that was asked for is not in the bucket.
    NotInBucket,
    /// The NAR of a narinfo is missing.
    NarMissing,
    /// The NAR of a narinfo has another size.
    NarSize,
    /// The contents of a NAR are not those that the narinfo states.
    NarContents,
    /// `FileHash` is not the hash of the object.
    FileHash,
    /// A path refers to a path that is neither in the bucket nor upstream's.
    ReferenceMissing,
    /// No client can read a realisation.
    RealisationMalformed,
    /// No narinfo names the NAR.
    OrphanNar,
    /// There is no narinfo to a listing of a NAR.
    OrphanListing,
    /// No narinfo names the derivation of a build log.
    OrphanLog,
    /// A realisation names a path that is not in the bucket.
    OrphanRealisation,
    /// A multipart upload that nobody finished.
    UnfinishedUpload,
    /// The lease, the probe or the reservation of a writer that died.
    DeadWriter,
    /// An object of which larder does not know the kind.
    UnknownObject,
}

impl Kind {
    /// All kinds, the worst first.
    pub const ALL: [Self; 22] = [
        Self::CacheInfo,
        Self::Marker,
        Self::OtherFormat,
        Self::Narinfo(FaultKind::Malformed),
        Self::Narinfo(FaultKind::OtherPath),
        Self::Narinfo(FaultKind::UnfitNar),
        Self::Narinfo(FaultKind::MalformedSignature),
        Self::Narinfo(FaultKind::Untrusted),
        Self::NotInBucket,
        Self::NarMissing,
        Self::NarSize,
        Self::NarContents,
        Self::FileHash,
        Self::ReferenceMissing,
        Self::RealisationMalformed,
        Self::OrphanNar,
        Self::OrphanListing,
        Self::OrphanLog,
        Self::OrphanRealisation,
        Self::UnfinishedUpload,
        Self::DeadWriter,
        Self::UnknownObject,
    ];

    /// The name in the JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Self::CacheInfo => "cache-info",
            Self::Marker => "marker",
            Self::OtherFormat => "other-format",
            Self::Narinfo(FaultKind::Malformed) => "narinfo-malformed",
            Self::Narinfo(FaultKind::OtherPath) => "narinfo-of-other-path",
            Self::Narinfo(FaultKind::UnfitNar) => "narinfo-unfit-nar",
            Self::Narinfo(FaultKind::MalformedSignature) => "signature-malformed",
            Self::Narinfo(FaultKind::Untrusted) => "untrusted",
            Self::NotInBucket => "not-in-bucket",
            Self::NarMissing => "nar-missing",
            Self::NarSize => "nar-size",
            Self::NarContents => "nar-contents",
            Self::FileHash => "file-hash",
            Self::ReferenceMissing => "reference-missing",
            Self::RealisationMalformed => "realisation-malformed",
            Self::OrphanNar => "orphan-nar",
            Self::OrphanListing => "orphan-listing",
            Self::OrphanLog => "orphan-log",
            Self::OrphanRealisation => "orphan-realisation",
            Self::UnfinishedUpload => "unfinished-upload",
            Self::DeadWriter => "dead-writer",
            Self::UnknownObject => "unknown-object",
        }
    }

    /// Whom it hurts.
    pub fn severity(self) -> Severity {
        match self {
            Self::Marker | Self::OtherFormat => Severity::Writers,
            Self::OrphanNar | Self::OrphanListing | Self::OrphanLog => Severity::Waste,
            Self::OrphanRealisation | Self::UnfinishedUpload | Self::DeadWriter => Severity::Waste,
            Self::FileHash | Self::UnknownObject => Severity::Information,
            _ => Severity::Clients,
        }
    }

    /// Several faults of this kind, in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::CacheInfo => "no sound `nix-cache-info`",
            Self::Marker => "no sound marker of the bucket's format",
            Self::OtherFormat => "a bucket of another format",
            Self::Narinfo(FaultKind::Malformed) => "malformed narinfos",
            Self::Narinfo(FaultKind::OtherPath) => "narinfos of other paths",
            Self::Narinfo(FaultKind::UnfitNar) => "narinfos whose NAR no client can read",
            Self::Narinfo(FaultKind::MalformedSignature) => "narinfos with a malformed signature",
            Self::Narinfo(FaultKind::Untrusted) => "paths that no trusted key signed",
            Self::NotInBucket => "paths that are not in the bucket",
            Self::NarMissing => "paths without their NARs",
            Self::NarSize => "NARs of a wrong size",
            Self::NarContents => "NARs with other contents",
            Self::FileHash => "narinfos with a wrong `FileHash`",
            Self::ReferenceMissing => "missing references",
            Self::RealisationMalformed => "realisations that no client can read",
            Self::OrphanNar => "NARs that no narinfo names",
            Self::OrphanListing => "listings without a narinfo",
            Self::OrphanLog => "build logs of no path in the bucket",
            Self::OrphanRealisation => "realisations of no path in the bucket",
            Self::UnfinishedUpload => "unfinished uploads",
            Self::DeadWriter => "objects of writers that died",
            Self::UnknownObject => "objects that larder does not know",
        }
    }

    /// What follows for clients.
    pub fn consequence(self) -> &'static str {
        match self {
            Self::CacheInfo => "clients do not use the cache",
            Self::Marker | Self::OtherFormat => "nothing is pushed; clients are served",
            Self::Narinfo(FaultKind::Untrusted) => {
                "clients refuse these paths, and build them and what needs them"
            }
            Self::Narinfo(_) => "clients stop with an error when they ask for these paths",
            Self::NotInBucket => "clients build these paths, and what needs them",
            Self::NarMissing => "clients choose these paths, and fail at the download",
            Self::NarSize | Self::NarContents => "clients choose these paths, and fail after the download",
            Self::FileHash => "none for Nix, which does not look at it; other clients may refuse the NAR",
            Self::ReferenceMissing => {
                "clients build these references before they can use what refers to them"
            }
            Self::RealisationMalformed => "clients that build these derivations stop with an error",
            Self::OrphanNar | Self::OrphanListing | Self::OrphanLog => "none; they take space",
            Self::OrphanRealisation => "none; clients build these derivations",
            Self::UnfinishedUpload => "none; their parts take space",
            Self::DeadWriter => "none",
            Self::UnknownObject => "none; larder leaves them alone",
        }
    }

    /// What a person can do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::CacheInfo => "delete a malformed one; then `larder init` writes one",
            Self::OtherFormat => {
                "use the newest version of larder that your machines use, and leave the marker alone"
            }
            Self::Marker => "`larder init` writes a missing one; delete one that is damaged",
            Self::Narinfo(FaultKind::Untrusted) => {
                "name the key with `--key` if clients trust it; otherwise `larder repair --adopt KEY`"
            }
            Self::NotInBucket => "`larder push`, on a machine that has them",
            Self::Narinfo(_) | Self::NarMissing | Self::NarSize => "`larder repair`",
            Self::NarContents | Self::FileHash | Self::ReferenceMissing => "`larder repair`",
            Self::RealisationMalformed => "delete them; `larder push` of their paths writes them anew",
            Self::OrphanNar | Self::OrphanListing | Self::OrphanLog | Self::OrphanRealisation => {
                "`larder collect --yes` removes them when no narinfo has named them for 30 days"
            }
            Self::UnfinishedUpload | Self::DeadWriter => "the next push removes them when they are a day old",
            Self::UnknownObject => "none is needed",
        }
    }
}

/// A fault of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind.
    pub kind: Kind,
    /// The path (`<hash>-<name>`), or the key of the object if no path is at fault.
    pub object: String,
    /// The details for people; may be empty.
    pub text: String,
    /// The number of other paths that a client cannot take because of this fault.
    pub affected: usize,
    /// The bytes that are wasted.
    pub bytes: u64,
}

impl Fault {
    /// A fault of this object.
    pub fn new(kind: Kind, object: impl Into<String>, text: impl Into<String>) -> Self {
        Self { kind, object: object.into(), text: text.into(), affected: 0, bytes: 0 }
    }

    /// The same fault with these wasted bytes.
    pub(super) fn wasting(self, bytes: u64) -> Self {
        Self { bytes, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let mut names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
        assert!(FaultKind::ALL.iter().all(|kind| Kind::ALL.contains(&Kind::Narinfo(*kind))));
    }
}
