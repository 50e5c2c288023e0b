//! Which keys are accepted.

use crate::base::error::{Area, Error, Result};

/// The length in bytes that S3 allows for a whole key.
const MAX_KEY: usize = 1024;

/// Refuses keys that some server, file system or URL would take for something else.
pub(crate) fn check(key: &str) -> Result<()> {
    match fault(key) {
        None => Ok(()),
        Some(fault) => {
            Err(Error::permanent(Area::Bucket, format!("cannot use the key `{}`", key.escape_debug()))
                .because(fault))
        }
    }
}

/// What is wrong with `key`, which may also be a prefix without its slash.
pub(crate) fn fault(key: &str) -> Option<&'static str> {
    if key.is_empty() {
        Some("it is empty")
    } else if key.len() > MAX_KEY {
        Some("it is longer than 1024 bytes")
    } else if key.chars().any(char::is_control) {
        Some("it has a control character")
    } else if key.split('/').any(|segment| segment.is_empty()) {
        Some("it has an empty segment")
    } else if key.split('/').any(|segment| matches!(segment, "." | "..")) {
        Some("it has a segment `.` or `..`")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_and_odd_keys_pass() {
        for key in ["a", "nar/x.nar.zst", "log/x-gtk+3%20 =&?#é.drv", "...", ".hidden/a..b"] {
            assert!(check(key).is_ok(), "{key}");
        }
    }

    #[test]
    fn what_could_escape_is_refused() {
        for key in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\nb", "a\0b", &"x".repeat(1025)] {
            assert!(check(key).is_err(), "{key:?}");
        }
    }
}
