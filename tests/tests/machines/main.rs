//! What installs larder, and what machines that use a cache have to bear: modules, units, `larder setup`, caches that
//! are away. Each test is named for what holds.

mod absent;
mod activation;
mod booted;
mod clients;
mod modules;
mod relay;
mod setup;
mod units;
mod walkthrough;
