//! The XML of the S3 protocol: the answers that larder reads and the documents that it sends.

pub(super) mod read;
pub(super) mod write;
