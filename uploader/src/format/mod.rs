//! The format of a binary cache, without I/O: object keys, narinfos, signatures, public keys, `nix-cache-info`,
//! larder's own objects, NARs and their listings, build logs, and path infos.

pub mod build_logs;
pub mod cache_info;
pub mod cache_path;
pub mod cache_url;
#[cfg(test)]
mod check_table;
pub mod collection;
pub mod derivation_hash;
#[cfg(test)]
mod example;
pub mod listing;
pub mod marker;
pub mod members;
pub mod named_nar;
pub mod named_paths;
pub mod nar_scanner;
pub mod narinfo;
pub mod need;
pub mod object_keys;
pub mod object_kind;
pub mod orphans;
pub mod path_info;
pub mod pin;
pub mod public_key;
pub mod realisation;
pub mod repointing;
pub mod resign;
pub mod signature;
pub mod standing;
pub mod summary;
pub mod verifier;
