//! `larder-hook`: the `post-build-hook` that Nix runs after each build. It queues the outputs of the build and exits 0.
//! It prints one line if something is wrong, and nothing otherwise. It never waits for the network.
//!
//! Nix has only one `post-build-hook`. `larder-hook --then PROGRAM` queues the outputs and then runs another hook, with
//! the environment and the standard streams that Nix gave. Nix passes no arguments to its hook, so a script of one line
//! has to pass them.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode};

use larder_hook::environment::{Build, Environment};
use larder_hook::printable;
use larder_hook::queue::{Job, Layout, Origin, Place, Queue};
use larder_hook::settings::{self, Settings};
use larder_hook::time::now;

/// The arguments. Unknown arguments are ignored, because they must not fail a build.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    version: bool,
    then: Option<OsString>,
}

impl Arguments {
    fn read(mut arguments: impl Iterator<Item = OsString>) -> Self {
        let mut read = Self::default();
        while let Some(argument) = arguments.next() {
            if argument == "--version" {
                read.version = true;
            } else if argument == "--then" {
                read.then = arguments.next();
            }
        }
        read
    }
}

/// The line that the hook prints, if any, and whether the build fails.
struct Report {
    line: Option<String>,
    fail: bool,
}

impl Report {
    /// The report on a job that was queued, with a remark if something is wrong.
    fn queued(remark: Option<String>) -> Self {
        Self { line: remark, fail: false }
    }

    /// The report on outputs that were not queued. The build fails if `strict`.
    fn failed(reason: &str, strict: bool) -> Self {
        let line = format!("not queued for the cache: {reason} (`larder catch-up` queues the outputs later)");
        Self { line: Some(line), fail: strict }
    }
}

fn main() -> ExitCode {
    // A panic must not fail a build, and must not print more than one line.
    std::panic::set_hook(Box::new(|_| {}));
    let arguments = Arguments::read(std::env::args_os().skip(1));
    if arguments.version {
        let _ = writeln!(std::io::stdout(), "larder-hook {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let report = std::panic::catch_unwind(run).unwrap_or_else(|_| Report::failed("internal error", false));
    report.line.iter().for_each(|line| say(line));
    match arguments.then {
        Some(program) => then(program, report.fail),
        None => exit(report.fail),
    }
}

/// Prints a line for the person who builds. A closed stream must not fail a build.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "larder: {}", printable(line));
}

fn exit(fail: bool) -> ExitCode {
    if fail { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs the other hook and exits as it does. If `fail` is set and the other hook succeeds, exits with a failure.
///
/// If the other hook cannot be run, the build fails, as it does when Nix cannot run its hook: the other hook may be one
/// that has to succeed.
fn then(program: OsString, fail: bool) -> ExitCode {
    let mut command = Command::new(&program);
    let error = if fail {
        match command.status() {
            Ok(status) => {
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
                let code = code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
                return code.map_or(ExitCode::FAILURE, ExitCode::from);
            }
            Err(error) => error,
        }
    } else {
        // The other hook replaces this process, so Nix sees its exit code or its signal.
        command.exec()
    };
    say(&format!(
        "cannot run the next post-build-hook `{}`: {error}; correct the path after `--then`",
        program.to_string_lossy().escape_debug()
    ));
    ExitCode::FAILURE
}

/// Queues the outputs of the build that the environment describes.
fn run() -> Report {
    let root = rustix::process::geteuid().is_root();
    let settings = match Settings::read(&settings::process_environment, root) {
        Ok(settings) => settings,
        Err(error) => {
            let strict = settings::strict_by_environment(&settings::process_environment).unwrap_or(false);
            return Report::failed(&error.to_string(), strict);
        }
    };
    let build = Environment::read().build(&settings.store_dir, |drv| {
        std::fs::read_to_string(settings.real_store_dir.join(drv.base_name())).ok()
    });
    match enqueue(&settings, build) {
        Ok(remark) => Report::queued(remark),
        Err(reason) => Report::failed(&reason, settings.strict),
    }
}

/// Queues the outputs of `build`. Returns a remark if something is wrong, or why the outputs could not be queued.
fn enqueue(settings: &Settings, build: Build) -> Result<Option<String>, String> {
    let complaint = (!build.complaints.is_empty()).then(|| build.complaints.join("; "));
    if build.outputs.is_empty() && build.deriver.is_none() {
        let unset = || "neither OUT_PATHS nor DRV_PATH is set; only Nix should run this program".to_owned();
        return Err(complaint.unwrap_or_else(unset));
    }
    let job = Job {
        origin: Origin::Hook,
        created: now(),
        deriver: build.deriver,
        trusted_keys: build.trusted_keys,
        paths: build.outputs,
        attempts: Vec::new(),
        roots: 0,
    };
    let auto = settings.nix_state_dir.join("gcroots/auto");
    let layout = Layout::ready(&settings.state_dir).map_err(|error| error.to_string())?;
    let queue = Queue::new(layout, &*settings.store_dir);
    let (_, unprotected) = queue.enqueue(&job, Place::Tmp, Some(&auto)).map_err(|error| error.to_string())?;
    Ok(match unprotected {
        Some(error) => Some(format!("queued, but a garbage collection may delete the outputs: {error}")),
        None => complaint.map(|complaint| format!("queued in part: {complaint}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_arguments_are_read_and_others_ignored() {
        let read = |words: &[&str]| Arguments::read(words.iter().map(OsString::from));
        assert_eq!(read(&[]), Arguments::default());
        assert_eq!(read(&["--then", "/x y"]).then, Some("/x y".into()));
        // Without a program there is no other hook to run.
        assert_eq!(read(&["--then"]), Arguments::default());
        assert_eq!(read(&["/a/script", "--what"]), Arguments::default());
        assert!(read(&["--version"]).version);
    }
}
