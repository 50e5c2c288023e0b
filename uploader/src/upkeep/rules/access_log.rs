//! Downloads, from the access logs of nginx (`combined`) and of S3 servers (the server access log, and MinIO's audit in JSON).
//!
//! Logs hold what anybody asked for. A line in none of these forms is counted and skipped.

use std::io::{BufRead, BufReader, Read, Result};

use flate2::bufread::MultiGzDecoder;
use serde_json::Value;

use crate::format::object_keys::{NARS, narinfo_hash};

/// The longest line that is read. Longer lines count as malformed.
const LONGEST: u64 = 64 * 1024;
/// The beginning of gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A client got a narinfo or a NAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// The key of the object, without the prefix of the bucket.
    pub key: String,
    /// The time by the log, in seconds since 1970.
    pub at: i64,
}

/// What a log held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessLog {
    /// The number of downloads.
    pub downloads: u64,
    /// The number of lines about something else.
    pub others: u64,
    /// The number of lines that could not be understood.
    pub malformed: u64,
}

impl AccessLog {
    /// Reads a log, compressed by gzip or not, and hands on each download. The memory does not grow with the log.
    ///
    /// # Errors
    /// The log cannot be read to its end.
    pub fn read(mut log: impl BufRead, consume: &mut dyn FnMut(Download)) -> Result<Self> {
        match log.fill_buf()?.starts_with(&GZIP) {
            true => Self::read_lines(BufReader::new(MultiGzDecoder::new(log)), consume),
            false => Self::read_lines(log, consume),
        }
    }

    fn read_lines(mut log: impl BufRead, consume: &mut dyn FnMut(Download)) -> Result<Self> {
        let (mut counts, mut line) = (Self::default(), Vec::new());
        loop {
            line.clear();
            if log.by_ref().take(LONGEST).read_until(b'\n', &mut line)? == 0 {
                return Ok(counts);
            }
            if line.len() as u64 == LONGEST && !line.ends_with(b"\n") {
                log.skip_until(b'\n')?;
                counts.malformed += 1;
                continue;
            }
            match parse(String::from_utf8_lossy(&line).trim()) {
                Line::Download(download) => {
                    counts.downloads += 1;
                    consume(download);
                }
                Line::Other => counts.others += 1,
                Line::Malformed => counts.malformed += 1,
            }
        }
    }
}

/// A line of a log.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Download(Download),
    Other,
    Malformed,
}

fn parse(line: &str) -> Line {
    let parsed = if line.starts_with('{') { json(line) } else { text(line) };
    match parsed {
        // Larder reads narinfos itself, to verify a bucket or to push. That is no client's need.
        Some(request) if request.is_get && request.is_success && !request.agent.starts_with("larder") => {
            let download = key(&request.path).map(|key| Download { key, at: request.at });
            download.map_or(Line::Other, Line::Download)
        }
        Some(_) => Line::Other,
        None => Line::Malformed,
    }
}

/// A request in a log.
struct Request {
    path: String,
    at: i64,
    is_get: bool,
    is_success: bool,
    agent: String,
}

/// `… [10/Oct/2000:13:55:36 -0700] … "GET /key HTTP/1.1" 200 …"referrer" "agent"…`: nginx and S3 differ only between.
fn text(line: &str) -> Option<Request> {
    let (time, rest) = line.split_once('[')?.1.split_once(']')?;
    let (request, rest) = rest.split_once('"')?.1.split_once('"')?;
    let (method, target) = request.split_once(' ')?;
    let path = target.split(' ').next()?.split('?').next()?;
    let status: u16 = rest.split_whitespace().next()?.parse().ok()?;
    let agent = rest.split('"').nth(3).unwrap_or_default().to_owned();
    let (at, is_get) = (log_time(time)?, method == "GET");
    Some(Request { path: path.to_owned(), at, is_get, is_success: is_success(status.into()), agent })
}

/// A line of MinIO's audit.
fn json(line: &str) -> Option<Request> {
    let line: Value = serde_json::from_str(line).ok()?;
    let api = line.get("api")?;
    let word = |value: &Value, name: &str| Some(value.get(name)?.as_str()?.to_owned());
    Some(Request {
        path: word(api, "object").unwrap_or_default(),
        at: iso_time(&word(&line, "time")?)?,
        is_get: word(api, "name")? == "GetObject",
        is_success: api.get("statusCode").and_then(Value::as_u64).is_some_and(is_success),
        agent: word(&line, "userAgent").unwrap_or_default(),
    })
}

fn is_success(status: u64) -> bool {
    matches!(status, 200 | 206 | 304)
}

/// The key of the narinfo or NAR at the end of a path. The bucket's name and a prefix may stand before it.
fn key(path: &str) -> Option<String> {
    let last = path.rsplit('/').next()?;
    if narinfo_hash(last).is_some() {
        return Some(last.to_owned());
    }
    let is_nar =
        path.strip_suffix(last)?.trim_end_matches('/').rsplit('/').next()? == NARS.trim_end_matches('/');
    (is_nar && last.contains(".nar")).then(|| format!("{NARS}{last}"))
}

/// `10/Oct/2000:13:55:36 -0700`.
fn log_time(text: &str) -> Option<i64> {
    let (date, zone) = text.split_once(' ')?;
    let mut parts = date.split(['/', ':']);
    let day = number(parts.next()?)?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as i64 + 1;
    let mut next = || number(parts.next()?);
    let local = unix([next()?, month, day, next()?, next()?, next()?])?;
    let digits = zone.strip_prefix(['+', '-']).filter(|digits| digits.len() == 4)?;
    let shift = number(digits.get(..2)?)? * 3600 + number(digits.get(2..)?)? * 60;
    Some(if zone.starts_with('-') { local + shift } else { local - shift })
}

/// `2026-10-10T13:55:36.123Z`.
fn iso_time(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut parts = date.split('-').chain(time.split('.').next()?.split(':'));
    let mut next = || number(parts.next()?);
    unix([next()?, next()?, next()?, next()?, next()?, next()?])
}

/// A number of at most four digits.
fn number(text: &str) -> Option<i64> {
    let is_short = text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_short)
}

/// The seconds since 1970 of a year, month, day, hour, minute and second.
fn unix([year, month, day, hour, minute, second]: [i64; 6]) -> Option<i64> {
    let is_time = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (hour < 24 && minute < 60 && second <= 60);
    // The year begins in March, so that the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 719_469;
    is_time.then_some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const NARINFO: &str = "0c5b8vw40dy178xlpddw65q9gf1h2186.narinfo";

    fn read(log: &[u8]) -> (AccessLog, Vec<Download>) {
        let mut found = Vec::new();
        let counts = AccessLog::read(log, &mut |download| found.push(download)).unwrap();
        (counts, found)
    }

    fn nginx(request: &str, status: u16, agent: &str) -> String {
        format!("::1 - - [10/Oct/2000:13:55:36 -0700] \"{request}\" {status} 77 \"-\" \"{agent}\"\n")
    }

    #[test]
    fn times_are_seconds_since_1970() {
        assert_eq!(log_time("10/Oct/2000:13:55:36 -0700"), Some(971_211_336));
        assert_eq!(log_time("29/Feb/2024:00:00:00 +0130"), Some(1_709_164_800 - 5400));
        assert_eq!(iso_time("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(iso_time("2026-03-01T00:00:01.5Z"), Some(1_772_323_201));
        for wrong in ["", "x", "10/Okt/2000:13:55:36 -0700", "10/Oct/2000:24:55:36 -0700", "1/2/3 +é0"] {
            assert_eq!(log_time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nginx_s3_and_minio_are_read() {
        let s3 = format!(
            "owner bucket [10/Oct/2000:20:55:36 +0000] 192.0.2.3 - 3E57 REST.GET.OBJECT {NARINFO} \
             \"GET /bucket/{NARINFO}?x=1 HTTP/1.1\" 200 - 113 113 7 6 \"-\" \"curl/8\" -\n"
        );
        let minio = format!(
            "{{\"version\":\"1\",\"time\":\"2000-10-10T20:55:36.1Z\",\"api\":{{\"name\":\"GetObject\",\"bucket\":\"b\",\
             \"object\":\"pre/{NARINFO}\",\"statusCode\":200}}}}\n"
        );
        let log = nginx(&format!("GET /pre/{NARINFO} HTTP/1.1"), 200, "curl/8 Nix/2.34") + &s3 + &minio;
        let (counts, found) = read(log.as_bytes());
        assert_eq!(counts, AccessLog { downloads: 3, others: 0, malformed: 0 });
        assert!(
            found.iter().all(|one| *one == Download { key: NARINFO.into(), at: 971_211_336 }),
            "{found:?}"
        );
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(log.as_bytes()).unwrap();
        assert_eq!(read(&gzip.finish().unwrap()), (counts, found));
    }

    #[test]
    fn only_downloads_by_clients_count() {
        let get = format!("GET /{NARINFO} HTTP/1.1");
        let log = nginx(&get, 404, "x")
            + &nginx(&get, 200, "larder/0.1")
            + &nginx(&format!("HEAD /{NARINFO} HTTP/1.1"), 200, "x")
            + &nginx("GET /nix-cache-info HTTP/1.1", 200, "x")
            + &nginx("GET /b/nar/x.nar.zst HTTP/2.0", 206, "x");
        let (counts, found) = read(log.as_bytes());
        assert_eq!(counts, AccessLog { downloads: 1, others: 4, malformed: 0 });
        assert_eq!(found[0].key, "nar/x.nar.zst");
    }

    #[test]
    fn malformed_lines_are_counted_and_skipped() {
        let mut log = b"rubbish\n{\n\xff\xfe[\n[]\"\"\n".to_vec();
        log.extend(vec![b'x'; 200_000]);
        log.extend(b"\n");
        log.extend(nginx(&format!("GET /{NARINFO} HTTP/1.1"), 200, "x").as_bytes());
        assert_eq!(read(&log).0, AccessLog { downloads: 1, others: 0, malformed: 5 });
    }
}
