//! A job: what one build put into the queue. The format is described in `docs/queue.md`.

use std::fmt;

use crate::store_path::StorePath;

/// The version of the format that this code writes.
const VERSION: &str = "1";

/// Who queued a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The hook: what it was told of was built here.
    Hook,
    /// `larder catch-up`: valid and `ultimate` in the store.
    CatchUp,
    /// `larder retry`, for paths that had been parked; trust is decided as for `larder push`.
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
}

/// What became of the attempts at one path of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// The path.
    pub path: StorePath,
    /// How many attempts failed.
    pub count: u32,
    /// When it is tried again, in seconds since 1970.
    pub next: u64,
    /// Why the last attempt failed; one line.
    pub reason: String,
}

/// One entry of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Who queued it.
    pub origin: Origin,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The derivation that was built, where known.
    pub deriver: Option<StorePath>,
    /// The public keys that Nix trusted at that time.
    pub trusted_keys: Vec<String>,
    /// The paths to push; empty where the agent must ask the daemon for the outputs of `deriver`.
    pub paths: Vec<StorePath>,
    /// Failed attempts, for the paths that had any.
    pub attempts: Vec<Attempts>,
    /// How many links in `roots/` are this job's; at least the number of its paths.
    pub roots: usize,
}

/// Why the text of a job cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadJob {
    /// Empty, cut off or not a job at all: what a loss of power may leave.
    Damaged(String),
    /// Written by a later version.
    Newer(String),
    /// Of another store than the one that is configured.
    Elsewhere(String),
}

impl fmt::Display for BadJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(reason) => write!(f, "damaged: {reason}"),
            Self::Newer(version) => {
                write!(f, "written in version {version} of the format, which this larder does not know")
            }
            Self::Elsewhere(dir) => write!(f, "of the store `{dir}`, which is not the configured one"),
        }
    }
}

impl std::error::Error for BadJob {}

impl BadJob {
    /// Whether the file is in order, only not ours to work on.
    pub fn is_to_be_left_alone(&self) -> bool {
        !matches!(self, Self::Damaged(_))
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
        for attempt in &self.attempts {
            let Attempts { path, count, next, reason } = attempt;
            line("Attempts", &format!("{count} {next} {path} {}", one_line(reason)));
        }
        line("End", "");
        text
    }

    /// Reads the text of a file; paths must lie in `store_dir`. Unknown fields are ignored, so that a version can
    /// gain some.
    pub fn parse(store_dir: &str, text: &str) -> Result<Self, BadJob> {
        let damaged = |reason: &str| BadJob::Damaged(reason.to_owned());
        let mut lines = text.split_inclusive('\n');
        let version = lines.next().and_then(|line| line.trim_end().strip_prefix("Larder-Job: "));
        match version {
            Some(VERSION) => {}
            Some(other) if other.parse::<u32>().is_ok() => return Err(BadJob::Newer(other.to_owned())),
            _ => return Err(damaged("the first line is not `Larder-Job: 1`")),
        }
        if !text.ends_with("\nEnd: \n") {
            return Err(damaged("the last line is missing"));
        }
        let path = |text: &str| {
            StorePath::parse(store_dir, text).map_err(|error| {
                // A whole file whose paths are store paths, but of another store.
                match text.rsplit_once('/').filter(|(dir, _)| StorePath::parse(dir, text).is_ok()) {
                    Some((dir, _)) => BadJob::Elsewhere(dir.to_owned()),
                    None => BadJob::Damaged(error.to_string()),
                }
            })
        };
        let mut origin = None;
        let mut job = Self {
            origin: Origin::Retry,
            created: 0,
            deriver: None,
            trusted_keys: Vec::new(),
            paths: Vec::new(),
            attempts: Vec::new(),
            roots: 0,
        };
        for line in lines {
            let (name, value) = line
                .trim_end_matches('\n')
                .split_once(": ")
                .ok_or_else(|| damaged("a line without a name"))?;
            match name {
                "Origin" => {
                    origin = [Origin::Hook, Origin::CatchUp, Origin::Retry]
                        .into_iter()
                        .find(|o| o.as_str() == value);
                }
                "Created" => job.created = value.parse().map_err(|_| damaged("`Created` is no number"))?,
                "Deriver" => job.deriver = Some(path(value)?),
                "Trusted-Key" => job.trusted_keys.push(value.to_owned()),
                "Path" => job.paths.push(path(value)?),
                "Roots" => job.roots = value.parse().map_err(|_| damaged("`Roots` is no number"))?,
                "Attempts" => {
                    let mut parts = value.splitn(4, ' ');
                    let mut part = || parts.next().ok_or_else(|| damaged("`Attempts` lacks a part"));
                    job.attempts.push(Attempts {
                        count: part()?.parse().map_err(|_| damaged("a count is no number"))?,
                        next: part()?.parse().map_err(|_| damaged("a time is no number"))?,
                        path: path(part()?)?,
                        reason: one_line(part()?),
                    });
                }
                _ => {}
            }
        }
        job.origin = origin.ok_or_else(|| damaged("`Origin` is missing or unknown"))?;
        if job.paths.is_empty() && job.deriver.is_none() {
            return Err(damaged("it names no path"));
        }
        job.roots = job.roots.max(job.paths.len()).max(1);
        Ok(job)
    }
}

/// `text` without line ends, so that it can stand in a line-based file.
pub(crate) fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
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
    fn survives_writing_and_reading() {
        let mut expected = job();
        let text = expected.to_text();
        expected.attempts[0].reason = "the server said no".into();
        assert_eq!(Job::parse(DIR, &text), Ok(expected));
    }

    #[test]
    fn every_cut_is_noticed() {
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
    fn a_later_version_is_told_from_damage() {
        let text = job().to_text().replacen("Job: 1", "Job: 2", 1);
        assert_eq!(Job::parse(DIR, &text), Err(BadJob::Newer("2".into())));
    }

    #[test]
    fn later_fields_are_ignored() {
        let text = job().to_text().replace("End: ", "Colour: blue\nEnd: ");
        assert_eq!(Job::parse(DIR, &text).unwrap().paths.len(), 2);
    }
}
