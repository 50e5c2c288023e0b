//! The promises of larder, with real Nix, real S3 servers and real files. The name of each test is the promise.

mod agent;
mod conformance;
mod errors;
mod hook;
mod main_job;
mod many;
mod narinfo;
mod order;
mod push;
mod queue;
mod secrets;
mod trust;
mod world;
mod writers;
