//! `larder-hook`: Nix runs it after each build. It queues the outputs and exits 0; it prints nothing unless something
//! is wrong, and then one line. It never waits for the network.
//!
//! Nix knows one `post-build-hook`. `larder-hook --then PROGRAM` queues, and then becomes the other hook, with the
//! environment and the standard streams that Nix gave. Nix passes no arguments: a script of one line has to.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode};

use larder_hook::environment::Environment;
use larder_hook::job::{Job, Origin};
use larder_hook::layout::{Layout, Place};
use larder_hook::queue::{Queue, now};
use larder_hook::settings::{self, Settings};

/// What the hook could not do, in one line.
enum Outcome {
    Queued,
    Remark(String),
    Failed { reason: String, strict: bool },
}

/// What the arguments ask for. Nix passes none, and what is not understood must not fail a build.
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

fn main() -> ExitCode {
    // A panic must not fail a build either.
    std::panic::set_hook(Box::new(|_| {}));
    let arguments = Arguments::read(std::env::args_os().skip(1));
    if arguments.version {
        let _ = writeln!(std::io::stdout(), "larder-hook {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let outcome = std::panic::catch_unwind(run)
        .unwrap_or_else(|_| Outcome::Failed { reason: "internal error".into(), strict: false });
    let (line, fail) = match outcome {
        Outcome::Queued => (None, false),
        Outcome::Remark(line) => (Some(line), false),
        Outcome::Failed { reason, strict } => {
            (Some(format!("not queued for the cache: {reason} (`larder catch-up` finds it later)")), strict)
        }
    };
    line.iter().for_each(|line| say(line));
    match arguments.then {
        Some(program) => then(program, fail),
        None => exit(fail),
    }
}

/// One line for whoever builds. Nobody may be listening; that is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "larder: {line}");
}

fn exit(fail: bool) -> ExitCode {
    if fail { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs the other hook and ends as it does; with `fail`, not with success.
///
/// One that cannot be run fails the build, as it would if Nix were to run it: it may be a hook that has to succeed.
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
        // Its end, a signal included, is ours then.
        command.exec()
    };
    say(&format!(
        "cannot run the next post-build-hook `{}`: {error}; correct what follows `--then`",
        program.to_string_lossy().escape_debug()
    ));
    ExitCode::FAILURE
}

fn run() -> Outcome {
    let root = rustix::process::geteuid().is_root();
    let settings = match Settings::read(&settings::process_environment, root) {
        Ok(settings) => settings,
        Err(error) => {
            let strict = settings::strict_by_environment(&settings::process_environment).unwrap_or(false);
            return Outcome::Failed { reason: error.to_string(), strict };
        }
    };
    let failed = |reason: String| Outcome::Failed { reason, strict: settings.strict };
    let build = Environment::read().build(&settings.store_dir, |drv| {
        std::fs::read_to_string(settings.real_store_dir.join(drv.base_name())).ok()
    });
    let complaint = (!build.complaints.is_empty()).then(|| build.complaints.join("; "));
    if build.outputs.is_empty() && build.deriver.is_none() {
        return failed(
            complaint.unwrap_or_else(|| "neither OUT_PATHS nor DRV_PATH is set; is it run by Nix?".into()),
        );
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
    let queued = Layout::ready(&settings.state_dir)
        .and_then(|layout| Queue::new(layout, &*settings.store_dir).enqueue(&job, Place::Tmp, Some(&auto)));
    match (queued, complaint) {
        (Err(error), _) => failed(error.to_string()),
        (Ok((_, Some(unprotected))), _) => {
            Outcome::Remark(format!("queued, but a garbage collection may take it: {unprotected}"))
        }
        (Ok(_), Some(complaint)) => Outcome::Remark(format!("queued in part: {complaint}")),
        (Ok(_), None) => Outcome::Queued,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_few_and_strangers_do_no_harm() {
        let read = |words: &[&str]| Arguments::read(words.iter().map(OsString::from));
        assert_eq!(read(&[]), Arguments::default());
        assert_eq!(read(&["--then", "/x y"]).then, Some("/x y".into()));
        // No program: there is nothing to run.
        assert_eq!(read(&["--then"]), Arguments::default());
        assert_eq!(read(&["/a/script", "--what"]), Arguments::default());
        assert!(read(&["--version"]).version);
    }
}
