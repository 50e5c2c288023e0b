//! `larder-hook`: Nix runs it after each build. It queues the outputs and exits 0; it prints nothing unless something
//! is wrong, and then one line. It never waits for the network.

use std::io::Write;
use std::process::ExitCode;

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

fn main() -> ExitCode {
    // A panic must not fail a build either.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(run)
        .unwrap_or_else(|_| Outcome::Failed { reason: "internal error".into(), strict: false });
    let (line, code) = match outcome {
        Outcome::Queued => return ExitCode::SUCCESS,
        Outcome::Remark(line) => (line, ExitCode::SUCCESS),
        Outcome::Failed { reason, strict } => (
            format!("not queued for the cache: {reason} (`larder catch-up` finds it later)"),
            if strict { ExitCode::FAILURE } else { ExitCode::SUCCESS },
        ),
    };
    // Nobody may be listening; that is no reason to fail.
    let _ = writeln!(std::io::stderr(), "larder: {line}");
    code
}

fn run() -> Outcome {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "--version") {
        let _ = writeln!(std::io::stdout(), "larder-hook {}", env!("CARGO_PKG_VERSION"));
        return Outcome::Queued;
    }
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
