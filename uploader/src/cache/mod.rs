//! The binary-cache format, without I/O: object keys, narinfo, signing, cache info, format marker and leases.

pub mod cache_info;
pub mod keys;
pub mod listing;
pub mod marker;
pub mod narinfo;
pub mod signing;
