//! The test harness: real Nix, real S3 servers, real files.
//!
//! `tests/provision` installs the programs that the tests need beyond Rust. A test whose requirement is missing says so
//! and is skipped ([`need`]), or fails where `LARDER_TESTS_REQUIRE=1` is set.
//!
//! | module | what |
//! |---|---|
//! | [`cache`], [`need`] | the paths of provisioned files; what happens when one is missing |
//! | [`process`] | children that never outlive the tests and commands that never hang |
//! | [`nix`] | private Nix stores and daemons of each version, and expressions to build |
//! | [`servers`] | S3 servers and a static file server |
//! | [`http`], [`s3`] | a small independent client, so that larder is not tested with itself |
//! | [`secrets`] | secrets that larder is given, and the search for them in its output and files |
//! | [`proxy`], [`fault`], [`order`] | a recording proxy with faults; the faults; the checker of the order of publication |
//! | [`gate`] | a gate that holds requests and threads until the test opens it |
//! | [`socket`] | a proxy with faults before the daemon |
//! | [`wire`] | a line of a given rate and delay |
//! | [`world`] | a store, a bucket, a key, and a larder that pushes from the store to the bucket |
//! | [`damage`] | each kind of damage that a bucket can have, planted |
//! | [`larder`] | the two binaries under test, and a configuration for them |
//! | [`machine`] | a machine with a systemd of its own |
//! | [`bigstore`] | a realistic store of over 1 GB, and 1,000 tiny outputs |
//! | [`year`] | a year of three machines, generated |
//! | [`synthetic`] | a generated store of any number of paths, with a daemon of the tests |

pub mod bigstore;
pub mod cache;
pub mod damage;
pub mod fault;
pub mod gate;
pub mod http;
pub mod larder;
pub mod machine;
pub mod need;
pub mod nix;
pub mod order;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod s3;
pub mod secrets;
pub mod servers;
pub mod socket;
pub mod strict;
pub mod synthetic;
pub mod wire;
pub mod world;
pub mod year;
