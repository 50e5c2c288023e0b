//! Whether and when a request is sent again.

use std::time::{Duration, SystemTime};

use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use rand_core::{OsRng, RngCore};

use crate::http::diagnosis::Trouble;

/// The longest first wait; it doubles from attempt to attempt.
const FIRST: Duration = Duration::from_millis(250);
/// The longest wait, also where the server asks for more.
const LONGEST: Duration = Duration::from_secs(20);

/// The attempts of one request.
#[derive(Debug)]
pub(super) struct Attempts {
    made: u32,
    most: u32,
    broke: bool,
}

impl Attempts {
    /// At most so many, and at least one.
    pub(super) fn at_most(most: u32) -> Self {
        Self { made: 0, most, broke: false }
    }

    /// After a refusal: how long to wait before the next attempt, if there is to be one.
    pub(super) fn after_refusal(&mut self, status: u16, code: &str, headers: &Headers) -> Option<Duration> {
        if !passes(status, code) {
            return None;
        }
        self.next(asked_for(headers))
    }

    /// After an attempt without a whole answer.
    pub(super) fn after_trouble(&mut self, trouble: Trouble) -> Option<Duration> {
        match trouble {
            Trouble::Certificate => None,
            // A server may close an idle connection at the moment when a request is written to it: no fault of
            // anybody's, and no attempt.
            Trouble::Broken if !self.broke => {
                self.broke = true;
                Some(Duration::ZERO)
            }
            _ => self.next(None),
        }
    }

    /// After an answer that broke off.
    pub(super) fn after_break(&mut self) -> Option<Duration> {
        self.next(None)
    }

    /// After what another attempt is likely to mend at once.
    pub(super) fn at_once(&mut self) -> Option<Duration> {
        self.next(Some(Duration::ZERO))
    }

    fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.made += 1;
        if self.made >= self.most {
            return None;
        }
        let share = f64::from(OsRng.next_u32()) / f64::from(u32::MAX);
        let wait = FIRST.saturating_mul(1 << (self.made - 1).min(10)).mul_f64(share);
        // Not all at the same time, where many are asked to come again in a second.
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
fn passes(status: u16, code: &str) -> bool {
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

/// What the server asks for: seconds or a date, or AWS's milliseconds.
pub(super) fn asked_for(headers: &Headers) -> Option<Duration> {
    asked_at(headers, SystemTime::now())
}

fn asked_at(headers: &Headers, now: SystemTime) -> Option<Duration> {
    if let Some(millis) = headers.get("x-amz-retry-after").and_then(|text| text.trim().parse().ok()) {
        return Some(Duration::from_millis(millis));
    }
    let text = headers.get("retry-after")?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = SystemTime::try_from(DateTime::from_str(text, Format::HttpDate).ok()?).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> Headers {
        let mut headers = Headers::new();
        headers.insert(name, value.to_owned());
        headers
    }

    #[test]
    fn what_passes_is_tried_again_and_nothing_else() {
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
            let wait = Attempts::at_most(2).after_refusal(status, code, &Headers::new());
            assert_eq!(wait.is_some(), again, "{status} {code}");
        }
    }

    #[test]
    fn attempts_end_and_waits_grow() {
        let mut attempts = Attempts::at_most(4);
        for most in [250, 500, 1000] {
            let wait = attempts.after_refusal(503, "", &Headers::new()).expect("another");
            assert!(wait <= Duration::from_millis(most), "{wait:?}");
        }
        assert_eq!(attempts.after_refusal(503, "", &Headers::new()), None);
        assert_eq!(Attempts::at_most(0).after_refusal(503, "", &Headers::new()), None);
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
        let mut attempts = Attempts::at_most(3);
        let wait = attempts.after_refusal(503, "", &headers("retry-after", "2")).expect("another");
        assert!((2000..=2250).contains(&wait.as_millis()), "{wait:?}");
        assert_eq!(attempts.after_refusal(503, "", &headers("retry-after", "86400")), Some(LONGEST));
    }
}
