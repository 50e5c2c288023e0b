//! A signing key outside of larder: a program signs with it.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::base::error::{Area, Cause, Error, Result};
use crate::base::lock::lock;
use crate::format::signature::OutsideSigner;

/// The longest time that the program takes for a signature.
const LONGEST: Duration = Duration::from_secs(60);
/// The number of programs that run at the same time.
const AT_ONCE: usize = 8;
/// The most bytes that are read from each output of the program.
const MOST: u64 = 4096;
/// The variables that the program gets.
const VARIABLES: [&str; 5] = ["PATH", "HOME", "LANG", "CREDENTIALS_DIRECTORY", "RUNTIME_DIRECTORY"];

/// A program that signs: it reads the fingerprint from its standard input, and prints `NAME:BASE64`.
#[derive(Debug)]
pub struct SigningCommand {
    program: String,
    arguments: Vec<String>,
    longest: Duration,
    running: Mutex<usize>,
    ended: Condvar,
}

impl SigningCommand {
    /// The program with its arguments; `None` without words.
    pub fn new(words: &[String]) -> Option<Self> {
        let (program, arguments) = words.split_first()?;
        Some(Self {
            program: program.clone(),
            arguments: arguments.to_vec(),
            longest: LONGEST,
            running: Mutex::new(0),
            ended: Condvar::new(),
        })
    }

    fn cannot(&self, cause: impl Into<Cause>) -> Error {
        Error::transient(Area::Config, format!("the signing command `{}` gives no signature", self.program))
            .because(cause)
    }

    fn run(&self, fingerprint: &str) -> Result<String> {
        let variables = VARIABLES.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| {
                self.cannot(error).hint("`signing-command` names a program and its arguments")
            })?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let begun = Instant::now();
        let (out, err) = (read(stdout), read(stderr));
        // A program that does not read its input is judged by its output. The text fits into the pipe.
        let _ = stdin.map(|mut stdin| stdin.write_all(fingerprint.as_bytes()));
        let status = wait(&mut child, begun + self.longest).map_err(|error| self.cannot(error))?;
        let too_long = || self.cannot(format!("it took longer than {} seconds", self.longest.as_secs()));
        let status = status.ok_or_else(too_long)?;
        // A child of the program may keep its output open.
        let rest = |output: Receiver<String>| {
            output.recv_timeout(self.longest.saturating_sub(begun.elapsed())).map_err(|_| too_long())
        };
        match status.success() {
            true => rest(out),
            false => {
                let said = rest(err)?;
                let said = said.lines().next().unwrap_or_default();
                Err(self.cannot(format!("it ended with {status}: {said}")))
            }
        }
    }
}

impl OutsideSigner for SigningCommand {
    fn sign(&self, fingerprint: &str) -> Result<String> {
        let run = || {
            let running = self.ended.wait_while(lock(&self.running), |running| *running >= AT_ONCE);
            *running.unwrap_or_else(|poisoned| poisoned.into_inner()) += 1;
            let signed = self.run(fingerprint);
            *lock(&self.running) -= 1;
            self.ended.notify_one();
            signed
        };
        // The other tasks of this thread go on in another one.
        match Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(run),
            _ => run(),
        }
    }
}

/// Reads an output of the program to its end, in a thread of its own.
fn read(from: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.by_ref().take(MOST).read_to_end(&mut bytes);
            // A program that prints more must not stop at a full pipe.
            let _ = std::io::copy(&mut from, &mut std::io::sink());
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// Waits for a child until `end`. Then ends it with its own children; the result is `None`.
fn wait(child: &mut Child, end: Instant) -> std::io::Result<Option<ExitStatus>> {
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > end {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::key_files::write_secret_key;
    use crate::format::signature::SecretKey;

    /// A key whose secret half only a program has; the program is a shell script.
    fn outside(public: &SecretKey, script: &str, longest: Duration) -> SecretKey {
        let words = ["sh".to_owned(), "-c".into(), script.into()];
        let command = SigningCommand { longest, ..SigningCommand::new(&words).unwrap() };
        SecretKey::outside(public.public(), Arc::new(command))
    }

    fn error_of(script: &str) -> String {
        let key = SecretKey::generate("outside-1").unwrap();
        let longest = Duration::from_millis(500);
        outside(&key, script, longest).sign("1;x").unwrap_err().to_string()
    }

    #[test]
    fn the_program_gets_the_fingerprint_and_its_signature_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let key = SecretKey::generate("outside-1").unwrap();
        let own = key.sign("1;x").unwrap().to_nix_string();
        std::fs::write(dir.path().join("signature"), &own).unwrap();
        let script = format!("test \"$(cat)\" = '1;x' && cat {}/signature", dir.path().display());
        let outside = outside(&key, &script, LONGEST);
        assert_eq!(outside.sign("1;x").unwrap().to_nix_string(), own);
        assert!(outside.sign("1;y").unwrap_err().to_string().contains("ended with"));
        assert!(write_secret_key(&outside, &dir.path().join("k")).is_err());
    }

    #[test]
    fn a_program_that_fails_in_any_way_gives_an_error_and_no_signature() {
        let other = SecretKey::generate("other-1").unwrap().sign("1;x").unwrap().to_nix_string();
        let same_name = SecretKey::generate("outside-1").unwrap().sign("1;x").unwrap().to_nix_string();
        for (script, said) in [
            ("echo the vault is sealed >&2; exit 3", "the vault is sealed"),
            ("exec sleep 60", "longer than"),
            ("sleep 60 & echo x", "longer than"),
            ("echo rubbish", "is no signature"),
            ("", "is no signature"),
            ("yes", "longer than"),
            (&format!("echo '{other}'"), "signed with the key `other-1`"),
            (&format!("echo '{same_name}'"), "does not verify"),
        ] {
            let error = error_of(script);
            assert!(error.contains(said), "{script}: {error}");
        }
        let missing = SigningCommand::new(&["/nowhere/sign".into()]).unwrap().sign("1;x").unwrap_err();
        assert!(missing.hint_text().is_some_and(|hint| hint.contains("signing-command")));
    }

    #[test]
    fn the_program_gets_no_secret_of_the_environment() {
        let key = SecretKey::generate("outside-1").unwrap();
        // Cargo sets this variable for tests.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let outside = outside(&key, "env | tr '\\n' ' ' >&2; exit 1", LONGEST);
        let error = outside.sign("1;x").unwrap_err().to_string();
        assert!(!error.contains("CARGO"), "{error}");
    }
}
