//! Requests to an S3 server before they are signed.

use std::borrow::Cow;
use std::time::Duration;

use aws_sigv4::http_request::SignableBody;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use md5::Md5;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

use crate::base::hex::hex;
use crate::bucket::interface::{Body, MAX_SMALL};

/// The characters that stay unencoded in the value of a parameter.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The characters that stay unencoded in a key.
const KEY: &AsciiSet = &VALUE.remove(b'/');

/// The time limit of most requests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request about one object, or, with an empty key, about the bucket.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    key: Cow<'a, str>,
    query: Vec<(&'static str, Cow<'a, str>)>,
    pub(super) headers: Vec<(&'static str, Cow<'a, str>)>,
    pub(super) body: Option<Body>,
    /// The longest body of an answer that is read, in bytes.
    pub(super) limit: u64,
    /// The time limit of an attempt, without the time that the request's body takes. The body of the answer to a GET has
    /// this time once more.
    pub(super) patience: Duration,
    /// Whether the request waits for the throttle in any case. Others are given up when the server goes on refusing.
    pub(super) must_be_sent: bool,
}

impl<'a> Request<'a> {
    /// `key` is the full key on the server.
    pub(super) fn new(method: Method, key: impl Into<Cow<'a, str>>) -> Self {
        let (query, headers) = (Vec::new(), Vec::new());
        let (body, limit, patience, must_be_sent) = (None, MAX_SMALL, PATIENCE, false);
        Self { method, key: key.into(), query, headers, body, limit, patience, must_be_sent }
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

    /// Adds a small document as the body. Its hash is always signed: it says what the server does.
    pub(super) fn document(self, text: String) -> Self {
        let sha256 = Some(Sha256::digest(&text).into());
        self.body(Body { bytes: text.into(), sha256 })
    }

    pub(super) fn limit(mut self, bytes: u64) -> Self {
        self.limit = bytes;
        self
    }

    pub(super) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Lets the request wait for the throttle in any case.
    pub(super) fn in_any_case(mut self) -> Self {
        self.must_be_sent = true;
        self
    }

    /// Whether the request is about the bucket and not about an object.
    pub(super) fn is_about_the_bucket(&self) -> bool {
        self.key.is_empty()
    }

    /// The URL below the URL of the bucket.
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

    /// The part of the body that is signed. A known hash costs nothing. Without a known hash, TLS protects the bytes, and
    /// the signature protects them over plain HTTP.
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

/// A key as it is in URLs and in the header that names the origin of a copy.
pub(super) fn encoded(key: &str) -> String {
    utf8_percent_encode(key, KEY).to_string()
}

/// The value of a parameter as it is in URLs.
pub(super) fn encoded_value(value: &str) -> String {
    utf8_percent_encode(value, VALUE).to_string()
}

/// The value of `Content-MD5`: a checksum against accidents, which every server knows.
pub(super) fn md5(bytes: &[u8]) -> String {
    STANDARD.encode(Md5::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_encoded() {
        let request = Request::new(Method::GET, "pre fix+/a%20=&?#é~")
            .query("prefix", "a/b+ c")
            .query("list-type", "2");
        assert_eq!(
            request.url("https://h:1/b"),
            "https://h:1/b/pre%20fix%2B/a%2520%3D%26%3F%23%C3%A9~?prefix=a%2Fb%2B%20c&list-type=2"
        );
        assert_eq!(Request::new(Method::GET, "").url("https://b.h"), "https://b.h/");
    }

    #[test]
    fn bodies_are_hashed_only_if_nothing_else_protects_them() {
        let request = || Request::new(Method::PUT, "a");
        let plain = || Body::from("x");
        let known = || Body { sha256: Some([0xab; 32]), ..plain() };
        let precomputed = SignableBody::Precomputed("ab".repeat(32));
        let hash = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        let document = SignableBody::Precomputed(hash.into());
        for (request, tls, payload) in [
            (request(), true, SignableBody::Bytes(b"")),
            (request(), false, SignableBody::Bytes(b"")),
            (request().body(plain()), true, SignableBody::UnsignedPayload),
            (request().body(plain()), false, SignableBody::Bytes(b"x")),
            (request().body(known()), true, precomputed.clone()),
            (request().body(known()), false, precomputed),
            (request().document("x".into()), true, document),
        ] {
            assert!(request.payload(tls) == payload, "{request:?} {tls}");
        }
    }
}
