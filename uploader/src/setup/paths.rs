//! The names and places on a machine that `larder setup` uses.

/// The directory of the installed programs. Neither a garbage collection nor an upgrade removes them there.
pub const HOOK_DIR: &str = "/usr/local/lib/larder";
/// The queue.
pub const STATE_DIR: &str = "/var/lib/larder";
/// The user that the agent runs as.
pub const USER: &str = "larder";
/// The units that `larder setup` starts.
pub const STARTED_UNITS: [&str; 5] = [
    "larder-queue.service",
    "larder-agent.path",
    "larder-agent.timer",
    "larder-catch-up.timer",
    "larder-recheck.timer",
];
/// The configuration of larder.
pub(super) const CONFIG: &str = "/etc/larder/config.toml";

/// The unit of the agent.
pub(super) const AGENT_UNIT: &str = "larder-agent.service";
/// The unit of `larder catch-up`.
pub(super) const CATCH_UP_UNIT: &str = "larder-catch-up.service";
/// The unit of `larder recheck`.
pub(super) const RECHECK_UNIT: &str = "larder-recheck.service";
/// The unit of `larder verify`.
pub(super) const VERIFY_UNIT: &str = "larder-verify.service";
/// The unit of `larder collect`.
pub(super) const COLLECT_UNIT: &str = "larder-collect.service";
/// The timers that a person enables on one machine.
pub(super) const OPTIONAL_TIMERS: [&str; 2] = ["larder-verify.timer", "larder-collect.timer"];
/// The directory of the units.
pub(super) const UNIT_DIR: &str = "/etc/systemd/system";
/// The record of the set-up.
pub(super) const MANIFEST: &str = "/usr/local/lib/larder/manifest.json";
/// Nix's configuration.
pub(super) const NIX_CONF: &str = "/etc/nix/nix.conf";
/// The name of the file that some installers of Nix leave to the machine's owner. `nix.conf` includes it.
pub(super) const CUSTOM_NIX_CONF: &str = "nix.custom.conf";
/// The directory of the daemon's socket. Its permissions decide who can reach the daemon.
pub(super) const SOCKET_DIR: &str = "/nix/var/nix/daemon-socket";
/// A garbage collection root for the libraries of a program from the store.
pub(super) const GC_ROOT: &str = "/nix/var/nix/gcroots/larder-setup";

/// The program that Nix runs as its hook. `chained` stands for the script that runs an earlier hook, too.
pub(super) fn hook_file(chained: bool) -> String {
    format!("{HOOK_DIR}/{}", if chained { "hook" } else { "larder-hook" })
}
