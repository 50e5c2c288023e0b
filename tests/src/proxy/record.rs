//! What the proxy notes of a request.

use crate::fault::Fault;
use std::time::Duration;

/// One request as the proxy saw it.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The place of the request's start in the order of all starts and ends.
    pub start: u64,
    /// The place of its end in the same order; `None` while the request runs and when it was cut off.
    pub end: Option<u64>,
    /// When it started, counted from the start of the proxy.
    pub began: Duration,
    /// When it ended; `None` as for `end`.
    pub ended: Option<Duration>,
    /// The number of the round in which it was let through; 0 without [`Proxy::set_rounds`](super::Proxy::set_rounds).
    pub round: u64,
    /// The fault that the proxy applied to it.
    pub fault: Option<Fault>,
    /// The method.
    pub method: String,
    /// The path, decoded, without the query.
    pub path: String,
    /// The query as it came, without `?`.
    pub query: String,
    /// The request's headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The response's status; 0 when there was no response.
    pub status: u16,
    /// The length of the request's body, without any chunk framing.
    pub body_len: u64,
    /// The request's body, if it is small (aws-chunked removed).
    pub body: Vec<u8>,
    /// The response's body, if it is small and not an object.
    pub response: Vec<u8>,
}

impl Record {
    /// Whether a complete response came and reports success. (S3 may send an error with status 200.)
    pub fn succeeded(&self) -> bool {
        self.end.is_some()
            && (200..300).contains(&self.status)
            && !String::from_utf8_lossy(&self.response[..self.response.len().min(1024)]).contains("<Error>")
    }

    /// The first header of that (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}
