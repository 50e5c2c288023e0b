//! Where objects live: S3 or a directory; one trait.
