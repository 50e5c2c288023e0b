//! A faulty world: every fault at every position, kills at every step, several writers, a store that changes, a server
//! that asks for fewer requests. Chance comes from a seed. `cargo test` runs a sample of the cases; `tests/faults` runs all
//! of them (`--full`), or as many as begin within a time (`--minutes`).

mod common;
mod compare;
mod daemon;
mod frozen;
mod hostile;
mod house;
mod kill;
mod matrix;
mod polite;
mod sabotage;
mod silent_daemon;
mod store;
mod tamper;
mod writers;
