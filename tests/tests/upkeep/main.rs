//! The upkeep of a bucket, with real Nix, real S3 servers and real files. The name of each test is the promise.

mod collect;
mod contents;
mod keys;
mod needs;
mod pins;
mod repair;
mod transfer;
mod verify;
mod year;
