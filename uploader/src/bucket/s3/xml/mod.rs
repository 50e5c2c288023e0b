//! The XML of the S3 protocol: the answers that larder reads and the documents that it sends.

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod properties;
pub(super) mod read;
pub(super) mod write;
