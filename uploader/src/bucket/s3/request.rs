//! Requests about objects, before they are signed.

use std::borrow::Cow;

use aws_sigv4::http_request::SignableBody;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::bucket::interface::{Body, MAX_SMALL};

/// What stays as it is in the value of a parameter, and with `/` in a key.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const KEY: &AsciiSet = &VALUE.remove(b'/');

/// A request about one object, or with an empty key about the bucket.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'static str,
    key: Cow<'a, str>,
    query: Vec<(&'static str, Cow<'a, str>)>,
    pub(super) headers: Vec<(&'static str, Cow<'a, str>)>,
    pub(super) body: Option<Body>,
    /// The longest body of an answer that is read, in bytes.
    pub(super) limit: u64,
}

impl<'a> Request<'a> {
    /// `key` is the whole key on the server.
    pub(super) fn new(method: &'static str, key: impl Into<Cow<'a, str>>) -> Self {
        let (query, headers) = (Vec::new(), Vec::new());
        Self { method, key: key.into(), query, headers, body: None, limit: MAX_SMALL }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<Cow<'a, str>>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<Cow<'a, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, body: Body) -> Self {
        self.body = Some(body);
        self
    }

    pub(super) fn limit(mut self, bytes: u64) -> Self {
        self.limit = bytes;
        self
    }

    /// The URL, below that of the bucket.
    pub(super) fn url(&self, bucket: &str) -> String {
        let mut url = String::with_capacity(bucket.len() + self.key.len() + 64);
        url.push_str(bucket);
        url.push('/');
        url.extend(utf8_percent_encode(&self.key, KEY));
        let mut mark = '?';
        for (name, value) in &self.query {
            url.push(mark);
            url.push_str(name);
            url.push('=');
            url.extend(utf8_percent_encode(value, VALUE));
            mark = '&';
        }
        url
    }

    /// What is signed of the body. A hash that is known costs nothing; else TLS guards the bytes where it is spoken,
    /// and the signature where it is not.
    pub(super) fn payload(&self, tls: bool) -> SignableBody<'_> {
        match &self.body {
            None => SignableBody::Bytes(&[]),
            Some(Body { sha256: Some(hash), .. }) => SignableBody::Precomputed(hex(hash)),
            Some(_) if tls => SignableBody::UnsignedPayload,
            Some(body) => SignableBody::Bytes(&body.bytes),
        }
    }

    /// The size of the body in bytes.
    pub(super) fn size(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.bytes.len())
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_encoded() {
        let request =
            Request::new("GET", "pre fix+/a%20=&?#é~").query("prefix", "a/b+ c").query("list-type", "2");
        assert_eq!(
            request.url("https://h:1/b"),
            "https://h:1/b/pre%20fix%2B/a%2520%3D%26%3F%23%C3%A9~?prefix=a%2Fb%2B%20c&list-type=2"
        );
        assert_eq!(Request::new("GET", "").url("https://b.h"), "https://b.h/");
    }

    #[test]
    fn bodies_are_hashed_only_where_nothing_else_guards_them() {
        let request = || Request::new("PUT", "a");
        let plain = || Body::from("x");
        let known = || Body { sha256: Some([0xab; 32]), ..plain() };
        let precomputed = SignableBody::Precomputed("ab".repeat(32));
        for (request, tls, payload) in [
            (request(), true, SignableBody::Bytes(b"")),
            (request(), false, SignableBody::Bytes(b"")),
            (request().body(plain()), true, SignableBody::UnsignedPayload),
            (request().body(plain()), false, SignableBody::Bytes(b"x")),
            (request().body(known()), true, precomputed.clone()),
            (request().body(known()), false, precomputed),
        ] {
            assert!(request.payload(tls) == payload, "{request:?} {tls}");
        }
    }
}
