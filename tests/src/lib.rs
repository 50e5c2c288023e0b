//! The test harness: real Nix, real S3 servers, real files.
//!
//! What the tests need beyond Rust is installed by `tests/provision`; a test whose requirement is missing says so and
//! is skipped ([`need`]), or fails where `LARDER_TESTS_REQUIRE=1` is set.
//!
//! | module | what |
//! |---|---|
//! | [`cache`], [`need`] | where provisioned things lie; what happens when one is missing |
//! | [`process`] | children that never outlive the tests and commands that never hang |
//! | [`nix`] | private Nix stores and daemons of each version, and things to build in them |
//! | [`servers`] | S3 servers and a static file server |
//! | [`http`], [`s3`] | a small client of our own, so that larder is not tested with itself |
//! | [`secrets`] | planted secrets, searched for in all that larder prints and writes |
//! | [`proxy`], [`fault`], [`order`] | a recording, faulty network; what it does to requests; the checker of the order of publication |
//! | [`gate`] | a gate that holds requests and threads until the test opens it |
//! | [`socket`] | a faulty way to the daemon |
//! | [`wire`] | a line of a given rate and delay |
//! | [`larder`] | the two binaries under test, and a configuration for them |
//! | [`machine`] | a machine with a systemd of its own |
//! | [`bigstore`] | a realistic store of over 1 GB, and 1,000 tiny outputs |
//! | [`synthetic`] | a store of any number of paths that nobody built, behind a daemon of our own |

pub mod bigstore;
pub mod cache;
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
pub mod synthetic;
pub mod wire;
