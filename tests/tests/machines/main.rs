//! Installation of larder, and machines that use caches: modules, units, `larder setup`, unreachable caches.

mod absent;
mod activation;
mod booted;
mod clients;
mod credentials;
mod modules;
mod neighbour;
mod relay;
mod setup;
mod units;
mod walkthrough;
