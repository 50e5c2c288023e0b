//! The caches of a relay, by name.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::event::{Event, Observer};
use super::health::Health;
use crate::base::error::{Area, Error, Result};
use crate::format::cache_path::is_cache_path;
use crate::format::cache_url::url_fault;
use crate::http::Forwarder;

/// How long a connection may take. The same as `connect-timeout` in the lines for clients that `larder client` prints.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a cache may take until it begins to answer. Servers with slow disks take a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A cache that the relay serves under its name.
#[derive(Debug)]
pub(super) struct Cache {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) server: Forwarder,
    pub(super) health: Health,
}

/// The caches of a relay, and the observer of their events.
pub struct Caches {
    list: Vec<Cache>,
    observer: Observer,
}

impl Caches {
    /// Reads words `NAME=URL`. The name becomes the first part of the path under which Nix reads the cache.
    ///
    /// Fails if a word is malformed, if two words have the same name, and if there is no word.
    pub fn new(words: &[String], ca_file: Option<&Path>, observer: Observer) -> Result<Self> {
        let mut list: Vec<Cache> = Vec::new();
        for word in words {
            let (name, url) = parse(word).map_err(|(shown, cause)| unusable(shown, cause))?;
            if list.iter().any(|other| other.name == name) {
                return Err(unusable(name, "two caches have this name".into()));
            }
            let server = Forwarder::new(url, CONNECT_TIMEOUT, ANSWER_TIMEOUT, ca_file)?;
            list.push(Cache { name: name.into(), url: url.into(), server, health: Health::default() });
        }
        if list.is_empty() {
            return Err(Error::permanent(Area::Usage, "there is no cache to relay")
                .hint("name a cache: `larder relay lan=http://cache.lan:8333/nix-cache`"));
        }
        Ok(Self { list, observer })
    }

    /// The cache that a request for `path` is for, and the path below the cache's URL, with its slash. `None` if no cache
    /// has that name, or if a cache has no files with such a path.
    pub(super) fn find<'a>(&self, path: &'a str) -> Option<(&Cache, &'a str)> {
        let named = path.strip_prefix('/')?;
        let (name, rest) = named.split_at(named.find('/')?);
        let cache = self.list.iter().find(|cache| cache.name == name)?;
        is_cache_path(rest.strip_prefix('/')?).then_some((cache, rest))
    }

    /// What [`Caches::find`] finds, with the name of the cache; for `fuzzing/`.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn target<'a>(&self, path: &'a str) -> Option<(&str, &'a str)> {
        self.find(path).map(|(cache, below)| (cache.name.as_str(), below))
    }

    /// Tells the observer of an event.
    pub(super) fn notify(&self, event: Event<'_>) {
        (self.observer)(event);
    }

    /// A line for each cache, for people: name, URL and health.
    pub(super) fn summary(&self) -> String {
        let line = |cache: &Cache| {
            let state =
                if cache.health.is_available() { "can be reached, or had no request" } else { "unavailable" };
            format!("{}\t{}\t{state}\n", cache.name, cache.url)
        };
        self.list.iter().map(line).collect()
    }
}

/// The name and the URL of a word `NAME=URL`. The error has the part of the word that may be shown, and the cause: the
/// URL is not shown, because it may have a password in it.
fn parse(word: &str) -> std::result::Result<(&str, &str), (&str, String)> {
    let (name, url) = word.split_once('=').ok_or((word, "it has no `=`".to_owned()))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || !name.chars().all(plain) {
        return Err((name, "that is no name".into()));
    }
    match url_fault(url) {
        None => Ok((name, url)),
        Some(fault) => Err((name, format!("its URL {fault}"))),
    }
}

fn unusable(shown: &str, cause: String) -> Error {
    Error::permanent(Area::Usage, format!("cannot use the cache `{shown}`"))
        .because(cause)
        .hint("write `NAME=http://HOST:PORT/BUCKET`, with a name of letters, digits, `-` and `_`")
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
    fn a_request_goes_to_the_cache_that_its_path_names_first() {
        let caches = caches(&["lan=http://c:1/b?priority=3", "other=https://d"]).expect("caches");
        let find = |path| caches.find(path).map(|(cache, rest)| (cache.name.clone(), rest));
        assert_eq!(find("/lan/nix-cache-info"), Some(("lan".into(), "/nix-cache-info")));
        assert_eq!(find("/other/nar/x.nar.zst"), Some(("other".into(), "/nar/x.nar.zst")));
        for path in [
            "/",
            "",
            "lan/nar/x",
            "/lan",
            "/lan/",
            "/none/nar/x",
            "/lan/x",
            "/lan/nar/../x",
            "/lan/nar/x?a=b",
        ] {
            assert_eq!(find(path), None, "{path}");
        }
    }

    #[test]
    fn malformed_words_are_refused_without_their_url() {
        for (words, says) in [
            (&[][..], "no cache"),
            (&["http://c/b"], "no `=`"),
            (&["=http://c/b"], "no name"),
            (&["a/b=http://c/b"], "no name"),
            (&["a=http://c", "a=http://d"], "two caches"),
            (&["a=c:8333"], "no URL"),
            (&["a=s3://bucket"], "neither"),
            (&["a=http://user:secret@c/b"], "credentials"),
        ] {
            let error = caches(words).expect_err("malformed").to_string();
            assert!(error.contains(says) && !error.contains("secret"), "{error}");
        }
    }
}
