//! The promises of larder, with real Nix, real S3 servers and real files. The name of each test is the promise.

mod agent;
mod conformance;
mod errors;
mod flush;
mod hook;
mod main_job;
mod many;
mod narinfo;
mod order;
mod push;
mod secrets;
mod store_away;
mod trust;
mod world;
mod writers;
