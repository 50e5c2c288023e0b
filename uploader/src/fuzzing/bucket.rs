//! Addresses of buckets, and the answers of servers.

use crate::bucket::{Address, read_answer};

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
    read_answer(bytes);
}
