//! The caches of a relay, by name.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::health::Health;
use super::{News, Tell};
use crate::base::error::{Area, Error, Result};
use crate::format::cache_url::url_fault;
use crate::http::Forwarder;

/// How long a connection may take to come about, as `connect-timeout` in what larder gives clients.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a cache may think about a request. Stores on slow disks take a second.
const ANSWER: Duration = Duration::from_secs(10);

/// One cache.
#[derive(Debug)]
pub(super) struct Cache {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) server: Forwarder,
    pub(super) health: Health,
}

/// All of them, and who is told what becomes of them.
pub struct Caches {
    list: Vec<Cache>,
    tell: Tell,
}

impl Caches {
    /// Reads `NAME=URL` words. A name becomes the first part of the path under which the cache is read.
    ///
    /// Fails where a word is malformed, a name is given twice, or there is none.
    pub fn new(words: &[String], ca_file: Option<&Path>, tell: Tell) -> Result<Self> {
        let fault = |word: &str, cause: String| {
            Error::permanent(Area::Usage, format!("cannot use the cache `{word}`"))
                .because(cause)
                .hint("write `NAME=http://HOST:PORT/BUCKET`, the name of letters, digits, `-` and `_`")
        };
        let mut list: Vec<Cache> = Vec::new();
        for word in words {
            let (name, url) = word.split_once('=').ok_or_else(|| fault(word, "it has no `=`".into()))?;
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            if name.is_empty() || !name.chars().all(plain) {
                return Err(fault(name, "that is no name".into()));
            }
            if list.iter().any(|other| other.name == name) {
                return Err(fault(name, "there are two of that name".into()));
            }
            // The URL is not shown: it may have a password in it.
            if let Some(why) = url_fault(url) {
                return Err(fault(name, format!("its URL {why}")));
            }
            let server = Forwarder::new(url, CONNECT, ANSWER, ca_file)?;
            list.push(Cache { name: name.into(), url: url.into(), server, health: Health::default() });
        }
        if list.is_empty() {
            return Err(Error::permanent(Area::Usage, "there is no cache to relay")
                .hint("name one: `larder relay lan=http://cache.lan:8333/nix-cache`"));
        }
        Ok(Self { list, tell })
    }

    /// The cache that a request for `path` is for, and what it is to be asked for. None where no cache has that name,
    /// or the path would leave the cache.
    pub(super) fn find<'a>(&self, path: &'a str) -> Option<(&Cache, &'a str)> {
        let named = path.strip_prefix('/')?;
        let (name, rest) = named.split_at(named.find('/')?);
        let leaves =
            |part: &str| matches!(part.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
        if rest.split(['/', '?']).any(leaves) {
            return None;
        }
        Some((self.list.iter().find(|cache| cache.name == name)?, rest))
    }

    pub(super) fn tell(&self, news: News<'_>) {
        (self.tell)(news);
    }

    /// What is known of each, for people.
    pub(super) fn summary(&self) -> String {
        let line = |cache: &Cache| {
            let state = if cache.health.is_there() { "answers, or was not asked" } else { "away" };
            format!("{}\t{}\t{state}\n", cache.name, cache.url)
        };
        self.list.iter().map(line).collect()
    }
}

impl fmt::Debug for Caches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.list).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caches(words: &[&str]) -> Result<Caches> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        Caches::new(&words, None, Box::new(|_| {}))
    }

    #[test]
    fn requests_are_for_the_cache_whose_name_they_begin_with() {
        let caches = caches(&["lan=http://c:1/b?priority=3", "other=https://d"]).expect("caches");
        let find = |path| caches.find(path).map(|(cache, rest)| (cache.name.clone(), rest));
        assert_eq!(find("/lan/nix-cache-info"), Some(("lan".into(), "/nix-cache-info")));
        assert_eq!(find("/other/nar/x.nar.zst?a=b"), Some(("other".into(), "/nar/x.nar.zst?a=b")));
        for path in ["/", "", "lan/x", "/lan", "/none/x", "/lan/../x", "/lan/%2E%2e/x", "/lan/a/.."] {
            assert_eq!(find(path), None, "{path}");
        }
    }

    #[test]
    fn malformed_words_are_refused_by_name() {
        for (words, says) in [
            (&[][..], "no cache"),
            (&["http://c/b"], "no `=`"),
            (&["=http://c/b"], "no name"),
            (&["a/b=http://c/b"], "no name"),
            (&["a=http://c", "a=http://d"], "two"),
            (&["a=c:8333"], "no URL"),
            (&["a=s3://bucket"], "neither"),
            (&["a=http://user:secret@c/b"], "credentials"),
        ] {
            let error = caches(words).expect_err("malformed").to_string();
            assert!(error.contains(says) && !error.contains("secret"), "{error}");
        }
    }
}
