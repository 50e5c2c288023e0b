//! Decides whether and when a request is sent again.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

use crate::base::backoff::{Backoff, Jitter};
use crate::http::diagnosis::Trouble;

/// The longest wait, even if the server asks for a longer one.
const LONGEST: Duration = Duration::from_secs(20);
/// The waits between the attempts of one request.
const WAITS: Backoff = Backoff { first: Duration::from_millis(250), longest: LONGEST, jitter: Jitter::Full };

/// The attempts of one request.
#[derive(Debug)]
pub(super) struct Attempts {
    made: u32,
    most: u32,
    broke: bool,
}

impl Attempts {
    /// Allows at most `most` attempts, and at least one.
    pub(super) fn at_most(most: u32) -> Self {
        Self { made: 0, most, broke: false }
    }

    /// The wait before the next attempt after a refusal; `None` if there is no further attempt.
    pub(super) fn after_refusal(&mut self, status: u16, code: &str, headers: &HeaderMap) -> Option<Duration> {
        if !may_pass(status, code) {
            return None;
        }
        self.next(asked_for(headers))
    }

    /// The wait after an attempt without an answer.
    pub(super) fn after_trouble(&mut self, trouble: Trouble) -> Option<Duration> {
        match trouble {
            Trouble::Certificate => None,
            // A server may close an idle connection at the moment when a request is written to it. That is no fault, and
            // does not count as an attempt.
            Trouble::Broken if !self.broke => {
                self.broke = true;
                Some(Duration::ZERO)
            }
            _ => self.next(None),
        }
    }

    /// The wait after an answer that broke off.
    pub(super) fn after_break(&mut self) -> Option<Duration> {
        self.next(None)
    }

    /// No wait, after a refusal that another attempt is likely to avoid.
    pub(super) fn at_once(&mut self) -> Option<Duration> {
        self.next(Some(Duration::ZERO))
    }

    fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.made += 1;
        if self.made >= self.most {
            return None;
        }
        let wait = WAITS.wait(self.made);
        // A server asks many clients to come again after the same time: the random part spreads them.
        Some(asked.map_or(wait, |asked| if asked.is_zero() { asked } else { asked + wait }).min(LONGEST))
    }
}

/// Whether the server asks for fewer requests.
pub(super) fn asks_for_less(status: u16, code: &str) -> bool {
    matches!(status, 429 | 503)
        || matches!(
            code,
            "SlowDown"
                | "Throttling"
                | "ThrottlingException"
                | "RequestThrottled"
                | "RequestThrottledException"
                | "RequestLimitExceeded"
                | "BandwidthLimitExceeded"
                | "TooManyRequests"
                | "TooManyRequestsException"
        )
}

/// Whether the same request may succeed a little later.
pub(super) fn may_pass(status: u16, code: &str) -> bool {
    asks_for_less(status, code)
        || matches!(status, 408 | 500 | 502 | 504)
        || matches!(
            code,
            "InternalError"
                | "ServiceUnavailable"
                | "RequestTimeout"
                | "RequestTimeoutException"
                | "PriorRequestNotComplete"
        )
}

/// The wait that the server asks for: in seconds, until a date, or in AWS's header in milliseconds.
/// The server's own date says when it answered: the clock of this machine may be wrong.
pub(super) fn asked_for(headers: &HeaderMap) -> Option<Duration> {
    let date = headers.get("date").and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    asked_at(headers, date.unwrap_or_else(SystemTime::now))
}

fn asked_at(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let header = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    if let Some(millis) = header("x-amz-retry-after").and_then(|text| text.parse().ok()) {
        return Some(Duration::from_millis(millis));
    }
    let text = header("retry-after")?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("value"));
        headers
    }

    #[test]
    fn only_refusals_that_may_pass_are_tried_again() {
        for (status, code, again) in [
            (503, "SlowDown", true),
            (500, "", true),
            (502, "", true),
            (504, "", true),
            (429, "", true),
            (400, "RequestTimeout", true),
            (200, "InternalError", true),
            (501, "NotImplemented", false),
            (507, "", false),
            (404, "NoSuchKey", false),
            (403, "AccessDenied", false),
            (412, "PreconditionFailed", false),
            (409, "ConditionalRequestConflict", false),
            (301, "", false),
        ] {
            let wait = Attempts::at_most(2).after_refusal(status, code, &HeaderMap::new());
            assert_eq!(wait.is_some(), again, "{status} {code}");
        }
    }

    #[test]
    fn attempts_end_and_waits_grow() {
        let mut attempts = Attempts::at_most(4);
        for most in [250, 500, 1000] {
            let wait = attempts.after_refusal(503, "", &HeaderMap::new()).expect("another");
            assert!(wait <= Duration::from_millis(most), "{wait:?}");
        }
        assert_eq!(attempts.after_refusal(503, "", &HeaderMap::new()), None);
        assert_eq!(Attempts::at_most(0).after_refusal(503, "", &HeaderMap::new()), None);
        let mut many = Attempts::at_most(u32::MAX);
        assert!((0..100).all(|_| many.after_trouble(Trouble::TimedOut).expect("another") <= LONGEST));
    }

    #[test]
    fn one_broken_connection_is_no_attempt() {
        let mut attempts = Attempts::at_most(2);
        assert_eq!(attempts.after_trouble(Trouble::Broken), Some(Duration::ZERO));
        assert!(attempts.after_trouble(Trouble::Broken).is_some());
        assert_eq!(attempts.after_trouble(Trouble::Broken), None);
        assert_eq!(Attempts::at_most(9).after_trouble(Trouble::Certificate), None);
    }

    #[test]
    fn the_server_says_when() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        for (name, value, wait) in [
            ("retry-after", "3", Some(3000)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT", Some(7000)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:20 GMT", Some(0)),
            ("retry-after", "soon", None),
            ("x-amz-retry-after", "1500", Some(1500)),
        ] {
            assert_eq!(asked_at(&headers(name, value), now), wait.map(Duration::from_millis), "{value}");
        }
        // The date in the answer counts, not the clock of this machine.
        let mut dated = headers("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT");
        dated.insert("date", "Sun, 06 Nov 1994 08:49:30 GMT".parse().expect("value"));
        assert_eq!(asked_for(&dated), Some(Duration::from_secs(7)));
        let mut attempts = Attempts::at_most(3);
        let wait = attempts.after_refusal(503, "", &headers("retry-after", "2")).expect("another");
        assert!((2000..=2250).contains(&wait.as_millis()), "{wait:?}");
        assert_eq!(attempts.after_refusal(503, "", &headers("retry-after", "86400")), Some(LONGEST));
    }
}
