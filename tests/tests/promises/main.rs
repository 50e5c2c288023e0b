//! The promises of larder, with real Nix, real S3 servers and real files. The name of each test is the promise.

use larder_tests::world;

mod agent;
mod available;
mod binary_cache;
mod clock;
mod command_line;
mod conformance;
mod credentials;
mod errors;
mod flush;
mod hook;
mod logs;
mod main_job;
mod many;
mod names;
mod narinfo;
mod order;
mod printed;
mod push;
mod queue;
mod realisations;
mod recheck;
mod secrets;
mod store_away;
mod trust;
mod urls;
mod writers;
