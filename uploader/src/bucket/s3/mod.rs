//! A bucket on an S3-compatible server.
//!
//! From the bottom up: `xml`, `request` and `reply` are values; `error`, `retry`, `throttle`, `expiry`, `signer` and `upload_body`
//! each decide one thing about them; `sender` sends a request; `connection` knows the bucket's address; `objects`,
//! `listing`, `multipart`, `copying`, `deletion`, `versions`, `policy` and `bucket` are the operations; `store` composes them.

mod bucket;
mod connection;
mod copying;
mod credentials;
mod deletion;
mod error;
mod expiry;
mod latest;
mod listing;
mod multipart;
mod objects;
mod place;
mod policy;
mod policy_document;
mod reply;
mod request;
mod retry;
mod sender;
mod signer;
mod store;
mod throttle;
mod upload_body;
mod versions;
mod xml;

pub use connection::Options;
pub use credentials::check_credentials_file;
pub use store::S3Bucket;

/// What holds for any bytes that a server or a file may hold, for `fuzzing/`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod properties {
    use super::{credentials, policy_document, xml};

    /// Reads a body as every kind of answer that larder reads.
    pub(crate) fn answer(body: &[u8]) {
        xml::properties::listing(body);
        xml::properties::uploads(body);
        xml::properties::multipart(body);
        xml::properties::fault(body);
        xml::properties::versions(body);
    }

    /// A policy with larder's statements needs no further change, and keeps what it had beside them.
    pub(crate) fn policy(text: &str) {
        let merge = |text: &str| policy_document::merge(text, "arn:aws:s3:::c", "arn:aws:s3:::c/*");
        let Ok(Some(merged)) = merge(text) else { return };
        assert_eq!(merge(&merged), Ok(None), "{merged}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
        let (before, after) = (value(text), value(&merged));
        if has_a_fraction(&before) {
            return;
        }
        for (key, kept) in before.as_object().into_iter().flatten().filter(|(key, _)| *key != "Statement") {
            assert_eq!(after.get(key), Some(kept), "{merged}");
        }
        let foreign = |policy: &serde_json::Value| {
            let statements = match &policy["Statement"] {
                serde_json::Value::Array(statements) => statements.clone(),
                serde_json::Value::Null => Vec::new(),
                statement => vec![statement.clone()],
            };
            let larders =
                |sid: &serde_json::Value| sid.as_str().is_some_and(|sid| sid.starts_with("LarderPublic"));
            statements.into_iter().filter(|statement| !larders(&statement["Sid"])).collect::<Vec<_>>()
        };
        assert_eq!(foreign(&before), foreign(&after), "{merged}");
    }

    /// Whether a number is not a whole number of 64 bits. JSON's other numbers are rounded; a policy has no use for them.
    fn has_a_fraction(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Number(number) => number.is_f64(),
            serde_json::Value::Array(values) => values.iter().any(has_a_fraction),
            serde_json::Value::Object(values) => values.values().any(has_a_fraction),
            _ => false,
        }
    }

    /// A credentials file: the values are words of the file, and an error shows nothing of the file.
    pub(crate) fn credentials(text: &str, profile: Option<&str>) {
        match credentials::parse(text, profile) {
            Ok(found) => {
                assert!(!found.id.is_empty() && !found.secret.is_empty());
                for value in [&found.id, &*found.secret].into_iter().chain(&*found.token) {
                    assert!(text.contains(value) && !value.contains('\n'));
                }
            }
            Err(error) => {
                let shown = profile.unwrap_or("default");
                let fixed = error.replace(&format!("`[{shown}]`"), "");
                assert!(FIXED.contains(&fixed.as_str()), "{error}");
            }
        }
    }

    /// The messages about a credentials file, without the name of the wanted section.
    const FIXED: &[&str] = &[
        "it is empty",
        "it has neither assignments nor two lines",
        "it has no section ",
        "a line is not an assignment",
        "it has no access key (`AWS_ACCESS_KEY_ID`)",
        "it has no secret key (`AWS_SECRET_ACCESS_KEY`)",
    ];
}
