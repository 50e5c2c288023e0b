//! The promises, held against real Nix, real S3 servers and real files. Each module holds some of them; each test is
//! named for the one it holds.

mod agent;
mod conformance;
mod errors;
mod hook;
mod main_job;
mod many;
mod narinfo;
mod order;
mod push;
mod secrets;
mod trust;
mod world;
mod writers;
