//! The promises of larder, with real Nix, real S3 servers and real files. The name of each test is the promise.

mod agent;
mod command_line;
mod conformance;
mod errors;
mod hook;
mod main_job;
mod many;
mod names;
mod narinfo;
mod order;
mod push;
mod secrets;
mod trust;
mod world;
mod writers;
