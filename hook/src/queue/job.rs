//! The format of a job: the outputs that one build put into the queue. `docs/queue.md` describes it.

use std::fmt;

use crate::printable;
use crate::store_path::StorePath;

/// The version of the format that this code writes.
const VERSION: &str = "1";

/// Which program queued a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The hook: Nix says that the paths were built on this machine.
    Hook,
    /// `larder catch-up`: the paths are valid and `ultimate` in the store.
    CatchUp,
    /// `larder retry`, for paths that were parked. The rules of `larder push` decide whether the paths are trusted.
    Retry,
}

impl Origin {
    fn as_str(self) -> &'static str {
        match self {
            Self::Hook => "hook",
            Self::CatchUp => "catch-up",
            Self::Retry => "retry",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Hook, Self::CatchUp, Self::Retry].into_iter().find(|origin| origin.as_str() == text)
    }
}

/// The failed attempts to push one path of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// The path.
    pub path: StorePath,
    /// How many attempts failed.
    pub count: u32,
    /// The time of the next attempt, in seconds since 1970.
    pub next: u64,
    /// The error of the last attempt, in one line.
    pub reason: String,
}

/// The content of a job's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Which program queued the job.
    pub origin: Origin,
    /// The time when it was queued, in seconds since 1970.
    pub created: u64,
    /// The derivation that was built, if known.
    pub deriver: Option<StorePath>,
    /// The public keys that Nix trusted when the job was queued.
    pub trusted_keys: Vec<String>,
    /// The paths to push. If the list is empty, the agent asks the daemon for the outputs of `deriver`.
    pub paths: Vec<StorePath>,
    /// The failed attempts, for each path that has any.
    pub attempts: Vec<Attempts>,
    /// How many links in `roots/` belong to the job: at least one, and at least the number of paths.
    pub roots: usize,
}

/// Why the file of a job cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadJob {
    /// The file is empty, truncated, or no job. A loss of power can leave such a file. Holds the reason.
    Damaged(String),
    /// A later version of larder wrote the file. Holds the version of the format.
    Newer(String),
    /// The paths belong to another store than the configured store. Holds the directory of that store.
    Elsewhere(String),
}

impl fmt::Display for BadJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(reason) => write!(f, "damaged: {reason}"),
            Self::Newer(version) => {
                write!(f, "written in version {version} of the format, which this larder does not know")
            }
            Self::Elsewhere(dir) => write!(f, "of the store `{dir}`, which is not the configured store"),
        }
    }
}

impl std::error::Error for BadJob {}

impl BadJob {
    /// Whether the file must be left alone: it is intact, but another larder has to process it.
    pub fn is_to_be_left_alone(&self) -> bool {
        !matches!(self, Self::Damaged(_))
    }

    fn damaged(reason: &str) -> Self {
        Self::Damaged(reason.to_owned())
    }
}

impl Job {
    /// The text of the file.
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(256 + self.paths.len() * 80);
        let mut line = |name: &str, value: &str| {
            text.push_str(name);
            text.push_str(": ");
            text.push_str(value);
            text.push('\n');
        };
        line("Larder-Job", VERSION);
        line("Origin", self.origin.as_str());
        line("Created", &self.created.to_string());
        if let Some(deriver) = &self.deriver {
            line("Deriver", deriver.as_str());
        }
        for key in &self.trusted_keys {
            line("Trusted-Key", key);
        }
        for path in &self.paths {
            line("Path", path.as_str());
        }
        if self.roots > self.paths.len().max(1) {
            line("Roots", &self.roots.to_string());
        }
        for Attempts { path, count, next, reason } in &self.attempts {
            line("Attempts", &format!("{count} {next} {path} {}", one_line(reason)));
        }
        line("End", "");
        text
    }

    /// Reads the text of a file. The paths must be in `store_dir`. Unknown lines are ignored, so that a later larder
    /// can add lines to this version of the format.
    pub fn parse(store_dir: &str, text: &str) -> Result<Self, BadJob> {
        let mut lines = text.split_inclusive('\n');
        check_version(lines.next().unwrap_or_default())?;
        if !text.ends_with("\nEnd: \n") {
            return Err(BadJob::damaged("the last line is missing"));
        }
        let mut job = Self {
            origin: Origin::Retry,
            created: 0,
            deriver: None,
            trusted_keys: Vec::new(),
            paths: Vec::new(),
            attempts: Vec::new(),
            roots: 0,
        };
        let mut origin = None;
        for line in lines {
            let (name, value) = line
                .trim_end_matches('\n')
                .split_once(": ")
                .ok_or_else(|| BadJob::damaged("a line has no name"))?;
            match name {
                "Origin" => origin = Origin::parse(value),
                "Created" => job.created = number(value, "`Created` is not a number")?,
                "Deriver" => job.deriver = Some(parse_path(store_dir, value)?),
                "Trusted-Key" => job.trusted_keys.push(value.to_owned()),
                "Path" => job.paths.push(parse_path(store_dir, value)?),
                "Roots" => job.roots = number(value, "`Roots` is not a number")?,
                "Attempts" => job.attempts.push(parse_attempts(store_dir, value)?),
                _ => {}
            }
        }
        job.origin = origin.ok_or_else(|| BadJob::damaged("`Origin` is missing or unknown"))?;
        if job.paths.is_empty() && job.deriver.is_none() {
            return Err(BadJob::damaged("it names no path"));
        }
        job.roots = job.roots.max(job.paths.len()).max(1);
        Ok(job)
    }

    /// The paths that the roots of a new job protect: its paths, or its deriver if it has no path.
    pub(super) fn protected(&self) -> &[StorePath] {
        if self.paths.is_empty() { self.deriver.as_slice() } else { &self.paths }
    }
}

/// Checks the first line of a file.
fn check_version(line: &str) -> Result<(), BadJob> {
    match line.trim_end().strip_prefix("Larder-Job: ") {
        Some(VERSION) => Ok(()),
        Some(other) if other.parse::<u32>().is_ok() => Err(BadJob::Newer(other.to_owned())),
        _ => Err(BadJob::damaged("the first line is not `Larder-Job: 1`")),
    }
}

/// Reads a store path, and tells a path of another store from a text that is no store path.
fn parse_path(store_dir: &str, text: &str) -> Result<StorePath, BadJob> {
    StorePath::parse(store_dir, text).map_err(|error| match text.rsplit_once('/') {
        Some((dir, _)) if StorePath::parse(dir, text).is_ok() => BadJob::Elsewhere(dir.to_owned()),
        _ => BadJob::Damaged(error.to_string()),
    })
}

/// Reads the value of a line `Attempts`: count, time of the next attempt, path and reason, separated by single spaces.
fn parse_attempts(store_dir: &str, value: &str) -> Result<Attempts, BadJob> {
    let mut parts = value.splitn(4, ' ');
    let mut part = || parts.next().ok_or_else(|| BadJob::damaged("`Attempts` lacks a part"));
    Ok(Attempts {
        count: number(part()?, "the count of `Attempts` is not a number")?,
        next: number(part()?, "the time of `Attempts` is not a number")?,
        path: parse_path(store_dir, part()?)?,
        reason: one_line(part()?),
    })
}

/// Reads a number; `reason` says what is wrong if `text` is not a number.
fn number<T: std::str::FromStr>(text: &str, reason: &str) -> Result<T, BadJob> {
    text.parse().map_err(|_| BadJob::damaged(reason))
}

/// Joins the lines of `text` with spaces, because the format has one line for each value. Servers and daemons write parts
/// of the text, and people read the file on a terminal.
fn one_line(text: &str) -> String {
    let parts: Vec<_> = text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect();
    printable(&parts.join(" ")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/nix/store";

    fn path(name: &str) -> StorePath {
        StorePath::parse(DIR, &format!("/nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-{name}")).unwrap()
    }

    fn job() -> Job {
        Job {
            origin: Origin::Hook,
            created: 1_790_000_000,
            deriver: Some(path("a.drv")),
            trusted_keys: vec!["k-1:abc=".into()],
            paths: vec![path("a"), path("b")],
            attempts: vec![Attempts {
                path: path("b"),
                count: 3,
                next: 17,
                reason: "the server said\n no".into(),
            }],
            roots: 3,
        }
    }

    #[test]
    fn a_written_job_reads_back() {
        let mut expected = job();
        let text = expected.to_text();
        expected.attempts[0].reason = "the server said no".into();
        assert_eq!(Job::parse(DIR, &text), Ok(expected));
    }

    #[test]
    fn a_reason_controls_no_terminal() {
        let mut job = job();
        job.attempts[0].reason = "\u{1b}[2J said\r\n\u{9b}no".into();
        let text = job.to_text();
        assert!(text.contains("-b \\u001b[2J said \\u009bno\n"), "{text}");
        let raw = text.replace("\\u001b", "\u{1b}");
        assert_eq!(Job::parse(DIR, &raw), Job::parse(DIR, &text));
    }

    #[test]
    fn the_text_of_a_job_has_one_line_for_each_value() {
        let text = "Larder-Job: 1\nOrigin: hook\nCreated: 1790000000\n\
            Deriver: /nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-a.drv\nTrusted-Key: k-1:abc=\n\
            Path: /nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-a\n\
            Path: /nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-b\nRoots: 3\n\
            Attempts: 3 17 /nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-b the server said no\nEnd: \n";
        assert_eq!(job().to_text(), text);
    }

    #[test]
    fn every_truncated_job_is_damaged() {
        let text = job().to_text();
        for length in 0..text.len() {
            assert!(
                matches!(Job::parse(DIR, &text[..length]), Err(BadJob::Damaged(_) | BadJob::Newer(_))),
                "{length}"
            );
        }
        assert!(matches!(Job::parse(DIR, &"\0".repeat(400)), Err(BadJob::Damaged(_))));
    }

    #[test]
    fn a_later_version_is_not_damage() {
        let text = job().to_text().replacen("Job: 1", "Job: 2", 1);
        assert_eq!(Job::parse(DIR, &text), Err(BadJob::Newer("2".into())));
    }

    #[test]
    fn later_fields_are_ignored() {
        let text = job().to_text().replace("End: ", "Colour: blue\nEnd: ");
        assert_eq!(Job::parse(DIR, &text).unwrap().paths.len(), 2);
    }
}
