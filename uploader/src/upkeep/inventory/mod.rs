//! Everything that a bucket holds.
//!
//! [`take`] lists the whole bucket, reads each narinfo that it has not read before, and makes a [`Catalog`]: tables of
//! numbers that hold a million paths in a few hundred megabytes.

mod arena;
mod building;
mod cache;
mod catalog;
mod closure;
mod listing;
mod objects;
mod places;
mod reading;
mod realised;
mod record_codec;
mod records;
mod take;

pub use cache::{Cache, cache_directory};
pub use catalog::{AbsentId, Catalog, NarId, PathFault, PathId, PathSet, Reference, Referrers};
pub use closure::take_closure;
pub use objects::{Object, Objects, Tag};
pub use realised::Realised;
pub use records::{NoRecords, Record, Records};
pub use take::{MARGIN, Options, Progress, take};

#[cfg(test)]
mod measure;
#[cfg(test)]
mod tests;
