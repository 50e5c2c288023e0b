//! What was read of a narinfo, as it is kept between two runs.

use nix_derivation::StorePath;

use super::objects::Object;
use crate::format::named_nar::{NamedNar, label_named, label_number};
use crate::format::summary::{FaultKind, NarinfoFault, Summary};

/// What was read of narinfos in earlier runs. It may be lost at any time.
pub trait Records: Send + Sync {
    /// What was read of the narinfo with this hash part; `None` unless it was this very object.
    fn get(&mut self, digest: &[u8; 20], object: &Object) -> Option<Record>;

    /// Keeps what was read. A failure loses the record.
    fn put(&mut self, digest: &[u8; 20], object: &Object, record: &Record);

    /// May forget the narinfos that are no longer in the bucket, which has this number of paths.
    fn keep_only(&mut self, _paths: usize, _is_listed: &dyn Fn(&[u8; 20]) -> bool) {}
}

/// No records: every narinfo is read.
#[derive(Clone, Copy, Debug)]
pub struct NoRecords;

impl Records for NoRecords {
    fn get(&mut self, _: &[u8; 20], _: &Object) -> Option<Record> {
        None
    }

    fn put(&mut self, _: &[u8; 20], _: &Object, _: &Record) {}
}

/// A path without its store directory: the hash part and the name.
pub(super) type Path = ([u8; 20], String);

/// What a narinfo says, without its hash part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The name of the path; empty if the narinfo says nothing that can be relied on.
    pub(super) name: String,
    pub(super) nar: Option<Nar>,
    /// The `URL` of a NAR that does not fit the narinfo.
    pub(super) unfit_url: Option<String>,
    pub(super) references: Vec<Path>,
    pub(super) deriver: Option<Path>,
    pub(super) signers: Vec<String>,
    /// The number of the kind in [`FaultKind::ALL`], and the text.
    pub(super) fault: Option<(u8, String)>,
}

/// The NAR that a narinfo names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nar {
    pub(super) key: String,
    pub(super) nar_hash: [u8; 32],
    pub(super) nar_size: u64,
    pub(super) file_size: Option<u64>,
    pub(super) file_hash: Option<[u8; 32]>,
    /// The number of the compression.
    pub(super) label: u8,
}

impl Record {
    /// The record of what was read.
    pub(super) fn of(read: Result<Summary, NarinfoFault>) -> Self {
        let path = |path: &StorePath| (*path.digest(), path.name().to_owned());
        match read {
            Err(fault) => Self { fault: Some(numbered(&fault)), ..Self::default() },
            Ok(summary) => Self {
                name: summary.path.name().to_owned(),
                nar: summary.nar.map(|nar| Nar {
                    nar_hash: nar.nar_hash,
                    nar_size: nar.nar_size,
                    file_size: nar.file_size,
                    file_hash: nar.file_hash,
                    label: label_number(nar.label),
                    key: nar.key,
                }),
                unfit_url: summary.unfit_url,
                references: summary.references.iter().map(path).collect(),
                deriver: summary.deriver.as_ref().map(path),
                signers: summary.signers,
                fault: summary.fault.as_ref().map(numbered),
            },
        }
    }

    /// The record of an object of so many bytes, which nobody reads.
    pub(super) fn too_large(size: u64) -> Self {
        let fault = NarinfoFault { kind: FaultKind::Malformed, text: format!("it has {size} bytes") };
        Self::of(Err(fault))
    }

    /// The fault of the narinfo.
    pub(super) fn fault(&self) -> Option<NarinfoFault> {
        let (number, text) = self.fault.as_ref()?;
        let kind = FaultKind::ALL.get(usize::from(*number)).copied().unwrap_or(FaultKind::Malformed);
        Some(NarinfoFault { kind, text: text.clone() })
    }
}

fn numbered(fault: &NarinfoFault) -> (u8, String) {
    let number = FaultKind::ALL.iter().position(|kind| *kind == fault.kind).unwrap_or(0);
    (number as u8, fault.text.clone())
}

impl Nar {
    /// The NAR, as the narinfo names it.
    pub(super) fn named(&self) -> NamedNar {
        let label = label_named(self.label);
        NamedNar::new(&self.key, self.nar_hash, label, self.nar_size, self.file_size, self.file_hash)
    }
}
