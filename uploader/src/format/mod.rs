//! The format of a binary cache, without I/O: object keys, narinfo, signatures, cache info, the marker of larder's own
//! objects, listings of NARs, and what a store knows about a path.

pub mod cache_info;
pub mod client_values;
pub mod listing;
pub mod marker;
pub mod nar_scanner;
pub mod narinfo;
pub mod object_keys;
pub mod path_info;
pub mod signature;
