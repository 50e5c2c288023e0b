//! The C program that does the least work of a hook, for comparison.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use larder_tests::process::run;
use tempfile::TempDir;

/// The compiled program `tests/yardsticks/hook.c` and the folder of its records.
pub(crate) struct Yardstick {
    dir: TempDir,
}

impl Yardstick {
    /// Compiles the program.
    pub(crate) fn compile() -> Result<Self> {
        // The folder is next to the queue of larder, because the cost of a sync differs between file systems.
        let yardstick = Self { dir: tempfile::tempdir()? };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("yardsticks/hook.c");
        let mut command = Command::new("cc");
        command.args(["-O2", "-o"]).arg(yardstick.program()).arg(source);
        run(&mut command, Duration::from_secs(60))?.ok()?;
        fs::create_dir(yardstick.records())?;
        Ok(yardstick)
    }

    /// The program.
    pub(crate) fn program(&self) -> PathBuf {
        self.dir.path().join("hook")
    }

    /// The folder in which the program writes its records.
    pub(crate) fn records(&self) -> PathBuf {
        self.dir.path().join("records")
    }

    /// The command that runs the program with arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        command.args(arguments).env_clear().env("YARDSTICK", self.records()).stdin(Stdio::null());
        command
    }
}
