//! The checker of the order of publication, over a [`proxy`](crate::proxy) log.
//!
//! A reader must never see a narinfo without its NAR and the narinfos of its references. So every PUT of a narinfo
//! **starts** after the upload of its NAR, and the PUTs of the narinfos of all its references, have **completed** with
//! success. The caller names the objects that were in the bucket before. A GET or HEAD that found an object, and a listing
//! that names it, also show that the object exists.

use crate::http::decode;
use crate::proxy::Record;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// A narinfo that was sent too early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key of the narinfo.
    pub narinfo: String,
    /// The object that was not known to exist when the PUT started, or the mistake in the narinfo itself.
    pub missing: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was sent before {} was there", self.narinfo, self.missing)
    }
}

/// The result of a check.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// PUTs of narinfos, whether they succeeded or not.
    pub narinfos: usize,
    /// The violations.
    pub violations: Vec<Violation>,
}

impl Checked {
    /// # Panics
    /// When there is a violation, or when there was nothing to check.
    pub fn assert_ordered(&self) {
        let list: Vec<_> = self.violations.iter().map(ToString::to_string).collect();
        assert!(
            list.is_empty(),
            "{} violations of the order of publication:\n{}",
            list.len(),
            list.join("\n")
        );
        assert!(self.narinfos > 0, "the log holds no PUT of a narinfo: nothing was checked");
    }
}

/// Checks a log. `base` is the part of request paths before the keys (`/bucket`, or `/bucket/prefix`), `given` are the keys
/// that were in the bucket before, and `upstream` the hash parts of paths that another cache provides.
pub fn check(log: &[Record], base: &str, given: &HashSet<String>, upstream: &HashSet<String>) -> Checked {
    let base = format!("{}/", base.trim_end_matches('/'));
    let known = known(log, &base);
    let mut checked = Checked::default();
    for record in log.iter().filter(|r| r.method == "PUT") {
        let Some(key) = record.path.strip_prefix(&base).filter(|k| k.ends_with(".narinfo")) else { continue };
        checked.narinfos += 1;
        let missing = match needed(record, key, upstream) {
            Ok(needed) => needed
                .into_iter()
                .filter(|key| !given.contains(key) && known.get(key).is_none_or(|end| *end >= record.start))
                .collect(),
            Err(missing) => vec![missing.to_owned()],
        };
        let violation = |missing| Violation { narinfo: key.to_owned(), missing };
        checked.violations.extend(missing.into_iter().map(violation));
    }
    checked
}

/// The keys that a log shows to exist, and the first place in the log at which each is known.
fn known(log: &[Record], base: &str) -> HashMap<String, u64> {
    let mut known: HashMap<String, u64> = HashMap::new();
    for record in log {
        let end = record.end.unwrap_or(u64::MAX);
        for key in shown(record, base) {
            let at = known.entry(key).or_insert(end);
            *at = end.min(*at);
        }
    }
    known
}

/// The keys that a request shows to exist.
fn shown(record: &Record, base: &str) -> Vec<String> {
    let key = || record.path.strip_prefix(base).map(str::to_owned).into_iter().collect();
    // A PUT that is refused because the object exists: the answer to an earlier attempt was lost.
    if record.status == 412 && record.header("if-none-match") == Some("*") {
        return key();
    }
    if !record.succeeded() {
        return Vec::new();
    }
    let parts: HashSet<_> =
        record.query.split('&').map(|p| p.split('=').next().unwrap_or_default()).collect();
    match record.method.as_str() {
        "PUT" if !parts.contains("partNumber") => key(),
        // CompleteMultipartUpload; CreateMultipartUpload has `uploads`.
        "POST" if parts.contains("uploadId") => key(),
        "GET" if parts.contains("list-type") => listed(&String::from_utf8_lossy(&record.response), base),
        "GET" | "HEAD" if record.query.is_empty() || record.query.starts_with("x-id=") => key(),
        _ => Vec::new(),
    }
}

/// The keys that must exist before a narinfo is sent; an error that says what is wrong with the narinfo itself.
fn needed(record: &Record, key: &str, upstream: &HashSet<String>) -> Result<Vec<String>, &'static str> {
    if record.body.is_empty() {
        // Cut off or refused before its body came: nothing was published.
        return if record.succeeded() { Err("its own body") } else { Ok(Vec::new()) };
    }
    let Some((nar, references)) = parse(&record.body) else {
        // Without a status it was cut off within its body.
        return if record.status == 0 { Ok(Vec::new()) } else { Err("a URL or References line in it") };
    };
    let own = key.trim_end_matches(".narinfo");
    let others = references.into_iter().filter(|hash| hash != own && !upstream.contains(hash));
    Ok(std::iter::once(nar).chain(others.map(|hash| format!("{hash}.narinfo"))).collect())
}

/// The keys in a listing, without the bucket's prefix.
fn listed(xml: &str, base: &str) -> Vec<String> {
    // `/bucket/` has no prefix, `/bucket/a/b/` has `a/b/`.
    let prefix = base.trim_start_matches('/').split_once('/').map(|(_, p)| p).unwrap_or_default();
    let encoded = xml.contains("<EncodingType>url");
    let keys = xml.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
    keys.map(|k| if encoded { decode(k) } else { k.to_owned() })
        .filter_map(|k| k.strip_prefix(prefix).map(str::to_owned))
        .collect()
}

/// URL, and the hash parts of the references, of a whole narinfo.
fn parse(body: &[u8]) -> Option<(String, Vec<String>)> {
    let text = std::str::from_utf8(body).ok()?;
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name));
    let url = field("URL: ")?.to_owned();
    let references = field("References: ")?;
    let hashes =
        references.split(' ').filter(|r| !r.is_empty()).map(|r| r.split('-').next().unwrap_or(r).to_owned());
    text.ends_with('\n').then(|| (url, hashes.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn narinfo(own: &str, references: &[&str]) -> Vec<u8> {
        let names: Vec<_> = references.iter().map(|r| format!("{r}-x")).collect();
        format!("StorePath: /s/{own}-x\nURL: nar/{own}.nar.zst\nReferences: {}\nSig: k:x\n", names.join(" "))
            .into_bytes()
    }

    fn put(key: &str, start: u64, end: u64, body: Vec<u8>) -> Record {
        let path = format!("/bucket/{key}");
        Record { method: "PUT".into(), path, start, end: Some(end), status: 200, body, ..Record::default() }
    }

    fn put_narinfo(own: &str, references: &[&str], start: u64, end: u64) -> Record {
        put(&format!("{own}.narinfo"), start, end, narinfo(own, references))
    }

    fn put_nar(own: &str, start: u64, end: u64) -> Record {
        put(&format!("nar/{own}.nar.zst"), start, end, b"nar".to_vec())
    }

    fn missing(log: &[Record]) -> Vec<String> {
        check(log, "/bucket", &HashSet::new(), &HashSet::new())
            .violations
            .into_iter()
            .map(|v| v.missing)
            .collect()
    }

    #[test]
    fn the_right_order_passes() {
        let log =
            [put_nar(A, 0, 2), put_nar(B, 1, 3), put_narinfo(A, &[A], 4, 5), put_narinfo(B, &[A, B], 6, 7)];
        let checked = check(&log, "/bucket", &HashSet::new(), &HashSet::new());
        assert_eq!((checked.narinfos, checked.violations.len()), (2, 0));
        checked.assert_ordered();
    }

    #[test]
    fn a_narinfo_before_its_nar_is_caught() {
        assert_eq!(missing(&[put_narinfo(A, &[], 0, 1), put_nar(A, 2, 3)]), [format!("nar/{A}.nar.zst")]);
    }

    #[test]
    fn a_narinfo_that_starts_while_its_nar_is_still_sent_is_caught() {
        assert_eq!(missing(&[put_nar(A, 0, 2), put_narinfo(A, &[], 1, 3)]), [format!("nar/{A}.nar.zst")]);
    }

    #[test]
    fn a_narinfo_before_its_reference_is_caught() {
        let log = [put_nar(A, 0, 1), put_nar(B, 2, 3), put_narinfo(B, &[A], 4, 6), put_narinfo(A, &[], 5, 7)];
        assert_eq!(missing(&log), [format!("{A}.narinfo")]);
    }

    #[test]
    fn a_failed_or_unfinished_upload_counts_for_nothing() {
        for spoil in [
            |r: &mut Record| r.status = 503,
            |r: &mut Record| r.end = None,
            |r: &mut Record| {
                r.response = b"<?xml version=\"1.0\"?><Error><Code>InternalError</Code></Error>".to_vec()
            },
            |r: &mut Record| r.query = "partNumber=1&uploadId=u".into(),
        ] {
            let mut nar = put_nar(A, 0, 1);
            spoil(&mut nar);
            assert_eq!(missing(&[nar, put_narinfo(A, &[], 2, 3)]), [format!("nar/{A}.nar.zst")]);
        }
    }

    #[test]
    fn a_narinfo_whose_put_failed_had_to_be_in_order_too() {
        let mut record = put_narinfo(A, &[], 0, 1);
        record.status = 500;
        assert_eq!(missing(&[record]).len(), 1);
    }

    #[test]
    fn a_multipart_upload_counts_when_it_is_completed() {
        let post = |query: &str, start, end| Record {
            method: "POST".into(),
            query: query.into(),
            ..put_nar(A, start, end)
        };
        let narinfo = put_narinfo(A, &[], 10, 11);
        assert_eq!(missing(&[post("uploads", 0, 1), narinfo.clone()]).len(), 1);
        assert_eq!(missing(&[post("uploads", 0, 1), post("uploadId=u", 2, 3), narinfo]).len(), 0);
    }

    #[test]
    fn what_was_there_or_is_upstream_is_no_violation() {
        let log = [put_narinfo(B, &[A], 0, 1)];
        let nar = format!("nar/{B}.nar.zst");
        let given = HashSet::from([nar.clone(), format!("{A}.narinfo")]);
        assert!(check(&log, "/bucket", &given, &HashSet::new()).violations.is_empty());
        let checked = check(&log, "/bucket", &HashSet::from([nar]), &HashSet::from([A.to_owned()]));
        assert!(checked.violations.is_empty());
    }

    #[test]
    fn what_a_listing_or_a_head_has_shown_is_there() {
        let listing = Record {
            method: "GET".into(),
            path: "/bucket".into(),
            query: "list-type=2&prefix=p%2Fnar".into(),
            end: Some(1),
            status: 200,
            response: format!("<Contents><Key>p/nar/{B}.nar.zst</Key></Contents>").into_bytes(),
            ..Record::default()
        };
        let mut head = put(&format!("p/{A}.narinfo"), 2, 3, Vec::new());
        head.method = "HEAD".into();
        let mut narinfo = put_narinfo(B, &[A], 4, 5);
        narinfo.path = format!("/bucket/p/{B}.narinfo");
        let count =
            |log: &[Record]| check(log, "/bucket/p", &HashSet::new(), &HashSet::new()).violations.len();
        assert_eq!(count(&[listing.clone(), head.clone(), narinfo.clone()]), 0);
        head.status = 404;
        assert_eq!(count(&[listing, head, narinfo]), 1);
    }

    #[test]
    #[should_panic(expected = "nothing was checked")]
    fn an_empty_log_shows_nothing() {
        check(&[], "/bucket", &HashSet::new(), &HashSet::new()).assert_ordered();
    }
}
