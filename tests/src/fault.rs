//! Faults of a network or a server, and a repeatable generator of random numbers.

use std::time::Duration;

/// A fault of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answer with this status and nothing else, instead of forwarding it.
    Status(u16),
    /// Answer as S3 refuses, instead of forwarding it.
    Refuse(Refusal),
    /// Close the connection without a response, and forward nothing.
    Drop,
    /// Forward half of the request's body, then close both connections.
    CutRequest,
    /// Forward the request, and close the connection instead of forwarding the response: the request is carried out, and
    /// the client does not know.
    LoseResponse,
    /// Forward the request and half of the response, and close the connection.
    CutResponse,
    /// Forward the request after this time.
    Stall(Duration),
    /// Forward the body of the request at this number of bytes a second.
    Slow(u64),
}

/// A refusal in the form of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status, which may be 200.
    pub status: u16,
    /// The code in its body.
    pub code: &'static str,
    /// Seconds in a `Retry-After` header.
    pub retry_after: Option<u32>,
}

impl Refusal {
    const fn new(status: u16, code: &'static str) -> Self {
        Self { status, code, retry_after: None }
    }

    /// The response in HTTP. It closes the connection.
    pub fn to_http(self, method: &str) -> String {
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>a fault of the tests</Message></Error>",
            self.code
        );
        let retry = self.retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
        let (body, length) = if method == "HEAD" { ("", xml.len()) } else { (xml.as_str(), xml.len()) };
        format!(
            "HTTP/1.1 {} Fault\r\nConnection: close\r\nContent-Type: application/xml\r\n{retry}Content-Length: {length}\r\n\r\n{body}",
            self.status
        )
    }
}

/// `503 SlowDown`.
pub const SLOW_DOWN: Fault = Fault::Refuse(Refusal::new(503, "SlowDown"));
/// `503 SlowDown` with `Retry-After: 1`.
pub const SLOW_DOWN_A_SECOND: Fault =
    Fault::Refuse(Refusal { retry_after: Some(1), ..Refusal::new(503, "SlowDown") });
/// `200 OK` with an error in the body, as the end of a multipart upload may have it.
pub const ERROR_IN_200: Fault = Fault::Refuse(Refusal::new(200, "InternalError"));

/// Every kind of short fault, with a name.
pub const ALL: [(&str, Fault); 13] = [
    ("500", Fault::Refuse(Refusal::new(500, "InternalError"))),
    ("500 without a body", Fault::Status(500)),
    ("503", SLOW_DOWN),
    ("503 with Retry-After", SLOW_DOWN_A_SECOND),
    ("403 skewed", Fault::Refuse(Refusal::new(403, "RequestTimeTooSkewed"))),
    ("403 denied", Fault::Refuse(Refusal::new(403, "AccessDenied"))),
    ("200 with an error", ERROR_IN_200),
    ("dropped", Fault::Drop),
    ("cut request", Fault::CutRequest),
    ("lost response", Fault::LoseResponse),
    ("cut response", Fault::CutResponse),
    ("stalled", Fault::Stall(Duration::from_millis(700))),
    ("slow", Fault::Slow(6 << 20)),
];

/// A generator of random numbers: the same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// A generator with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (SplitMix64).
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }

    /// Shuffles things.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for place in (1..things.len()).rev() {
            things.swap(place, self.below(place + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself() {
        let draw = |seed| {
            let mut chance = Chance::new(seed);
            let mut things: Vec<_> = (0..50).collect();
            chance.shuffle(&mut things);
            (things, chance.below(10))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1).0, draw(2).0);
        let mut sorted = draw(3).0;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }
}
