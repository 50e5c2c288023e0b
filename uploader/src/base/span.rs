//! Lengths of time as people write them: `90d`, `12h`.

use std::time::Duration;

/// The units, the longest first, with their seconds.
const UNITS: [(&str, u64); 5] = [("w", 7 * 24 * 3600), ("d", 24 * 3600), ("h", 3600), ("m", 60), ("s", 1)];

/// Reads a length of time: a whole number and one of the units `s`, `m`, `h`, `d` and `w`. The error says what is wrong.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no length of time, such as `90d`, `12h` or `30m`");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(*seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// A length of time in whole seconds, as [`parse_span`] reads it: `90d`.
pub fn span_code(span: Duration) -> String {
    let seconds = span.as_secs();
    let is_whole = |unit: u64| seconds > 0 && seconds.is_multiple_of(unit);
    // Nobody counts months in weeks.
    let (name, unit) = UNITS[1..].iter().find(|(_, unit)| is_whole(*unit)).unwrap_or(&("s", 1));
    format!("{}{name}", seconds / unit)
}

/// A length of time for people, in its largest unit: `3 days`.
pub fn span_text(span: Duration) -> String {
    let words = [("day", 24 * 3600), ("hour", 3600), ("minute", 60), ("second", 1)];
    let seconds = span.as_secs();
    let (word, unit) = words.into_iter().find(|(_, unit)| seconds >= *unit).unwrap_or(("second", 1));
    let number = seconds / unit;
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_shown() {
        for (text, seconds, shown) in [
            ("90d", 7_776_000, "90 days"),
            ("2 h", 7200, "2 hours"),
            ("1m", 60, "1 minute"),
            ("1w", 604_800, "7 days"),
        ] {
            let span = parse_span(text).unwrap();
            assert_eq!((span.as_secs(), &*span_text(span)), (seconds, shown), "{text}");
            assert_eq!(parse_span(&span_code(span)), Ok(span));
        }
        assert_eq!(
            ["90d", "14 d", "1w", "36h", "0d", "61s"].map(|text| span_code(parse_span(text).unwrap())),
            ["90d", "14d", "7d", "36h", "0s", "61s"]
        );
        for text in ["", "90", "d", "-1d", "1.5d", "1y", "99999999999999999999d", "9999999999999999w", "1d2h"]
        {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }
}
