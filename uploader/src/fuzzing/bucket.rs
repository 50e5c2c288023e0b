//! Addresses of buckets, and the answers of servers.

use crate::bucket::{Address, properties};

/// An address: its displayed form means the same address.
pub(super) fn address(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(address) = text.parse::<Address>() else { return };
    let shown = address.to_string();
    let again = shown.parse::<Address>();
    assert_eq!(again.as_ref().ok(), Some(&address), "{shown}");
    if let Address::S3(address) = &address {
        let _ = address.public_url("us-east-1");
        assert!(address.full_key("x").ends_with('x'));
    }
}

/// The body of any answer that larder reads.
pub(super) fn answer(bytes: &[u8]) {
    properties::answer(bytes);
}

/// The policy of a bucket, which larder extends.
pub(super) fn policy(bytes: &[u8]) {
    properties::policy(&String::from_utf8_lossy(bytes));
}

/// A credentials file. An even first byte stands for no profile; after an odd byte, the first line names the profile.
pub(super) fn credentials(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes.get(1..).unwrap_or_default());
    match bytes.first() {
        Some(first) if first % 2 == 1 => {
            let (profile, file) = text.split_once('\n').unwrap_or((&text, ""));
            properties::credentials(file, Some(profile));
        }
        _ => properties::credentials(&text, None),
    }
}
