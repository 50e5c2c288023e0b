//! A faulty world: every fault at every position, kills at every step, several writers, a store that moves, a server
//! that asks for less. Chance comes from a seed, time is boxed; `tests/faults` runs these for as long as one likes.

mod common;
mod compare;
mod daemon;
mod kill;
mod matrix;
mod polite;
mod silent_daemon;
mod store;
mod writers;
