//! The format of a parked path: one file in `parked/`, whose name is the base name of the store path.
//!
//! The file is a job with one path. `larder retry` queues the path again by moving the file.

use super::job::{Attempts, BadJob, Job, Origin};
use crate::store_path::StorePath;

/// The reason in the second line `Attempts`, which names the path that blocks a parked path.
const BLOCKS: &str = "blocks it";

/// A path that the agent does not push until a person decides about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The path, or a derivation whose outputs are not known.
    pub path: StorePath,
    /// The time when it was parked, in seconds since 1970.
    pub since: u64,
    /// How many attempts failed.
    pub attempts: u32,
    /// The error of the last attempt, in one line.
    pub reason: String,
    /// A parked path that this path refers to, if that is the only obstacle.
    pub blocked_by: Option<StorePath>,
    /// The public keys that Nix trusted when its job was queued.
    pub trusted_keys: Vec<String>,
    /// Which program queued its job.
    pub origin: Origin,
}

impl Parked {
    /// The job that queues the path again at the time `created`, in seconds since 1970.
    pub fn into_job(self, created: u64) -> Job {
        let is_derivation = self.path.name().ends_with(".drv");
        Job {
            origin: self.origin,
            created,
            deriver: is_derivation.then(|| self.path.clone()),
            trusted_keys: self.trusted_keys,
            paths: if is_derivation { Vec::new() } else { vec![self.path] },
            attempts: Vec::new(),
            roots: 1,
        }
    }

    /// The text of the file.
    pub(super) fn to_text(&self) -> String {
        let mut job = self.clone().into_job(self.since);
        let reason = self.reason.clone();
        job.attempts.push(Attempts { path: self.path.clone(), count: self.attempts, next: 0, reason });
        if let Some(blocker) = &self.blocked_by {
            let reason = BLOCKS.to_owned();
            job.attempts.push(Attempts { path: blocker.clone(), count: 0, next: 0, reason });
        }
        job.to_text()
    }

    /// Reads the text of a file. The paths must be in `store_dir`.
    pub(super) fn parse(store_dir: &str, text: &str) -> Result<Self, BadJob> {
        let job = Job::parse(store_dir, text)?;
        let mut attempts = job.attempts.into_iter();
        let own =
            attempts.next().ok_or_else(|| BadJob::Damaged("the line `Attempts` is missing".to_owned()))?;
        Ok(Self {
            path: own.path,
            since: job.created,
            attempts: own.count,
            reason: own.reason,
            blocked_by: attempts.next().map(|blocker| blocker.path),
            trusted_keys: job.trusted_keys,
            origin: job.origin,
        })
    }

    /// The name of the link in `roots/` that protects the path from garbage collection.
    ///
    /// It cannot be the name of a job's link, because the name of a job begins with a digit.
    pub fn link_name(&self) -> String {
        format!("parked-{}.0", hash_part(self.path.base_name()))
    }

    /// The hash part of the parked path that a link in `roots/` protects; `None` for the link of a job.
    pub(super) fn hash_of_link(link: &str) -> Option<&str> {
        link.strip_prefix("parked-")?.strip_suffix(".0")
    }
}

/// The hash part of a base name.
fn hash_part(base_name: &str) -> &str {
    base_name.split('-').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/nix/store";

    fn parked(name: &str, blocked_by: Option<&str>) -> Parked {
        let path = |hash: &str, name: &str| StorePath::parse(DIR, &format!("{DIR}/{hash}-{name}")).unwrap();
        Parked {
            path: path("0c5b8vw40dy178xlpddw65q9gf1h2186", name),
            since: 7,
            attempts: 3,
            reason: "hash\n differs".into(),
            blocked_by: blocked_by.map(|name| path("1c5b8vw40dy178xlpddw65q9gf1h2186", name)),
            trusted_keys: vec!["k-1:abc=".into()],
            origin: Origin::CatchUp,
        }
    }

    #[test]
    fn the_text_of_a_parked_path_is_a_job_with_its_attempts() {
        let text = "Larder-Job: 1\nOrigin: catch-up\nCreated: 7\nTrusted-Key: k-1:abc=\n\
            Path: /nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-a\n\
            Attempts: 3 0 /nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-a hash differs\n\
            Attempts: 0 0 /nix/store/1c5b8vw40dy178xlpddw65q9gf1h2186-b blocks it\nEnd: \n";
        assert_eq!(parked("a", Some("b")).to_text(), text);
        let derivation = "Larder-Job: 1\nOrigin: catch-up\nCreated: 7\n\
            Deriver: /nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-a.drv\nTrusted-Key: k-1:abc=\n\
            Attempts: 3 0 /nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-a.drv hash differs\nEnd: \n";
        assert_eq!(parked("a.drv", None).to_text(), derivation);
    }

    #[test]
    fn a_parked_path_reads_back_and_needs_its_attempts() {
        let mut expected = parked("a", Some("b"));
        let text = expected.to_text();
        expected.reason = "hash differs".into();
        assert_eq!(Parked::parse(DIR, &text), Ok(expected));
        let job = parked("a", None).into_job(7).to_text();
        assert!(matches!(Parked::parse(DIR, &job), Err(BadJob::Damaged(_))));
    }

    #[test]
    fn a_link_names_the_hash_part_and_is_no_link_of_a_job() {
        let name = parked("a-b", None).link_name();
        assert_eq!(name, "parked-0c5b8vw40dy178xlpddw65q9gf1h2186.0");
        assert_eq!(Parked::hash_of_link(&name), Some("0c5b8vw40dy178xlpddw65q9gf1h2186"));
        assert_eq!(Parked::hash_of_link("1790000000-000000000-0123abcd.0"), None);
    }
}
