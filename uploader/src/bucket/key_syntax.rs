//! The syntax of object keys that a bucket accepts.

use crate::base::error::{Area, Error, Result};

/// The greatest length of a key in S3, in bytes.
const MAX_KEY: usize = 1024;

/// Refuses keys that have another meaning to some server, file system or URL. The error is permanent.
pub(crate) fn check(key: &str) -> Result<()> {
    match fault(key) {
        None => Ok(()),
        Some(fault) => {
            Err(Error::permanent(Area::Bucket, format!("cannot use the key `{}`", key.escape_debug()))
                .because(fault))
        }
    }
}

/// Whether `key` is a key that a bucket takes.
pub fn is_key(key: &str) -> bool {
    fault(key).is_none()
}

/// The reason why `key` is refused, or `None`. `key` may also be a prefix without its slash.
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
    fn keys_that_could_escape_are_refused() {
        for key in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\nb", "a\0b", &"x".repeat(1025)] {
            assert!(check(key).is_err(), "{key:?}");
        }
    }
}
