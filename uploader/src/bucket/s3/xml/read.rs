//! Reading of the XML that S3 servers answer with.

use std::time::SystemTime;

use aws_smithy_types::date_time::{DateTime, Format};
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;
use quick_xml::reader::Reader;

use crate::bucket::interface::Version;

/// The reason for a refusal, as far as the server gives one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Fault {
    pub(in super::super) code: String,
    pub(in super::super) message: String,
}

/// A page of a listing as the server sent it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Listing {
    pub(in super::super) objects: Vec<Listed>,
    pub(in super::super) folders: Vec<String>,
    pub(in super::super) truncated: bool,
    /// The token that asks for the next page.
    pub(in super::super) token: Option<String>,
    /// Whether keys are percent-encoded.
    pub(in super::super) encoded: bool,
}

/// An object of a listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Listed {
    pub(in super::super) key: String,
    pub(in super::super) size: u64,
    pub(in super::super) etag: Option<String>,
    /// The time when the object was last written.
    pub(in super::super) modified: Option<SystemTime>,
}

/// A page of a listing of versions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Versions {
    /// The full keys with their versions.
    pub(in super::super) versions: Vec<(String, Version)>,
    pub(in super::super) truncated: bool,
    /// Where the next page begins: a key, and a version of it or nothing.
    pub(in super::super) next: Option<(String, String)>,
    /// Whether keys are percent-encoded.
    pub(in super::super) encoded: bool,
}

/// Whether the body of an answer may hold an error in spite of its status. A long listing is not parsed for this.
pub(in super::super) fn may_be_a_fault(body: &[u8]) -> bool {
    body[..body.len().min(512)].windows(6).any(|window| window == b"<Error")
}

/// Reads the body of a refusal. The result is empty if the body is not understood.
pub(in super::super) fn fault(body: &[u8]) -> Fault {
    let mut fault = Fault::default();
    // A body that breaks off may hold the code all the same.
    let _ = walk(body, |path, text| match path {
        "Error/Code" | "ErrorResponse/Error/Code" => fault.code = text.trim().to_owned(),
        "Error/Message" | "ErrorResponse/Error/Message" => fault.message = text.trim().to_owned(),
        _ => {}
    });
    fault
}

/// Reads the answer to `ListObjectsV2`. Fails if it is not a complete listing.
pub(in super::super) fn listing(body: &[u8]) -> Result<Listing, String> {
    let mut page = Listing::default();
    let mut object = Listed::default();
    let mut whole = false;
    walk(body, |path, text| match path {
        "ListBucketResult/Contents/Key" => object.key.push_str(text),
        "ListBucketResult/Contents/Size" => object.size = text.trim().parse().unwrap_or_default(),
        "ListBucketResult/Contents/ETag" => object.etag = Some(text.to_owned()),
        "ListBucketResult/Contents/LastModified" => object.modified = time(text.trim()),
        "ListBucketResult/Contents" => page.objects.push(std::mem::take(&mut object)),
        "ListBucketResult/CommonPrefixes/Prefix" => page.folders.push(text.to_owned()),
        "ListBucketResult/IsTruncated" => page.truncated = text.trim() == "true",
        "ListBucketResult/NextContinuationToken" => page.token = Some(text.to_owned()),
        "ListBucketResult/EncodingType" => page.encoded = text.trim() == "url",
        "ListBucketResult" => whole = true,
        _ => {}
    })?;
    if whole { Ok(page) } else { Err("it is not a listing".into()) }
}

/// Reads the answer to `DeleteObjects`: the full keys that could not be deleted, with the reasons. Fails if it is no such answer.
pub(in super::super) fn undeleted(body: &[u8]) -> Result<Vec<(String, Fault)>, String> {
    let (mut left, mut key, mut fault, mut whole) = (Vec::new(), String::new(), Fault::default(), false);
    let body = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    let mut reader = Reader::from_str(body.trim_start());
    // Where nothing is left, the whole answer may be `<DeleteResult/>`.
    reader.config_mut().expand_empty_elements = true;
    walk_reader(reader, |path, text| match path {
        "DeleteResult/Error/Key" => text.clone_into(&mut key),
        "DeleteResult/Error/Code" => fault.code = text.trim().to_owned(),
        "DeleteResult/Error/Message" => fault.message = text.trim().to_owned(),
        "DeleteResult/Error" => left.push((std::mem::take(&mut key), std::mem::take(&mut fault))),
        "DeleteResult" => whole = true,
        _ => {}
    })?;
    // An object that does not exist is what the request wants.
    left.retain(|(_, fault)| !matches!(&*fault.code, "NoSuchKey" | "NotFound"));
    if whole { Ok(left) } else { Err("it is no answer to a deletion".into()) }
}

/// Reads the answer to `CopyObject` or `UploadPartCopy`: the entity tag of the copy, which such an answer always has.
pub(in super::super) fn entity_tag_of_copy(body: &[u8]) -> Result<Option<String>, String> {
    let mut etag = None;
    walk(body, |path, text| {
        if matches!(path, "CopyObjectResult/ETag" | "CopyPartResult/ETag") {
            etag = Some(text.trim().to_owned()).filter(|etag| !etag.is_empty());
        }
    })?;
    Ok(etag)
}

/// Reads the answer to `ListObjectVersions`. Fails if it is not a complete listing.
pub(in super::super) fn versions(body: &[u8]) -> Result<Versions, String> {
    let mut page = Versions::default();
    let mut next = (String::new(), String::new());
    let new = |is_marker| (String::new(), Version { id: String::new(), is_marker, size: 0 });
    let (mut one, mut whole) = (new(false), false);
    walk(body, |path, text| {
        let Some(inner) = path.strip_prefix("ListVersionsResult") else { return };
        match inner {
            "" => whole = true,
            "/Version/Key" | "/DeleteMarker/Key" => one.0.push_str(text),
            "/Version/VersionId" | "/DeleteMarker/VersionId" => one.1.id.push_str(text.trim()),
            "/Version/Size" => one.1.size = text.trim().parse().unwrap_or_default(),
            "/Version" => page.versions.push(std::mem::replace(&mut one, new(false))),
            "/DeleteMarker" => {
                one.1.is_marker = true;
                page.versions.push(std::mem::replace(&mut one, new(false)));
            }
            "/IsTruncated" => page.truncated = text.trim() == "true",
            "/NextKeyMarker" => next.0.push_str(text),
            "/NextVersionIdMarker" => next.1.push_str(text.trim()),
            "/EncodingType" => page.encoded = text.trim() == "url",
            _ => {}
        }
    })?;
    if page.versions.iter().any(|(_, version)| version.id.is_empty()) {
        return Err("a version has no id".into());
    }
    page.next = Some(next).filter(|(key, _)| !key.is_empty());
    if whole { Ok(page) } else { Err("it is not a listing of versions".into()) }
}

/// Reads a time such as `2026-01-01T00:00:00.000Z`.
fn time(text: &str) -> Option<SystemTime> {
    DateTime::from_str(text, Format::DateTimeWithOffset).ok()?.try_into().ok()
}

/// Reads the answer to `ListMultipartUploads`: keys and upload ids.
pub(in super::super) fn uploads(body: &[u8]) -> Result<Vec<(String, String)>, String> {
    let (mut uploads, mut one, mut whole) = (Vec::new(), (String::new(), String::new()), false);
    walk(body, |path, text| match path {
        "ListMultipartUploadsResult/Upload/Key" => one.0.push_str(text),
        "ListMultipartUploadsResult/Upload/UploadId" => one.1.push_str(text.trim()),
        "ListMultipartUploadsResult/Upload" => uploads.push(std::mem::take(&mut one)),
        "ListMultipartUploadsResult" => whole = true,
        _ => {}
    })?;
    if whole { Ok(uploads) } else { Err("it is not a listing of uploads".into()) }
}

/// Reads the answer to `CreateMultipartUpload`: the upload id, if there is one.
pub(in super::super) fn upload_id(body: &[u8]) -> Result<Option<String>, String> {
    let mut id = None;
    walk(body, |path, text| {
        if path == "InitiateMultipartUploadResult/UploadId" {
            id = Some(text.trim().to_owned()).filter(|id| !id.is_empty());
        }
    })?;
    Ok(id)
}

/// Reads the answer to `CompleteMultipartUpload`: whether it says that the object exists now.
pub(in super::super) fn names_an_object(body: &[u8]) -> Result<bool, String> {
    let mut names = false;
    walk(body, |path, _| {
        names |= matches!(
            path,
            "CompleteMultipartUploadResult/ETag"
                | "CompleteMultipartUploadResult/Key"
                | "CompleteMultipartUploadResult/Location"
        );
    })?;
    Ok(names)
}

/// Calls `end` at the end of each element that has an end of its own. The arguments are the names of the elements that lead
/// to it, joined by `/`, and the text since the last tag.
fn walk(body: &[u8], end: impl FnMut(&str, &str)) -> Result<(), String> {
    let body = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    walk_reader(Reader::from_str(body.trim_start()), end)
}

fn walk_reader(mut reader: Reader<&[u8]>, mut end: impl FnMut(&str, &str)) -> Result<(), String> {
    let (mut path, mut text) = (String::new(), String::new());
    let mut starts = Vec::new();
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(tag) => {
                starts.push(path.len());
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(&String::from_utf8_lossy(tag.local_name().as_ref()));
                text.clear();
            }
            Event::End(_) => {
                end(&path, &text);
                path.truncate(starts.pop().unwrap_or_default());
                text.clear();
            }
            Event::Text(more) => text.push_str(&more.decode().map_err(|error| error.to_string())?),
            Event::CData(more) => text.push_str(&more.decode().map_err(|error| error.to_string())?),
            Event::GeneralRef(name) => match name.resolve_char_ref().map_err(|error| error.to_string())? {
                Some(character) => text.push(character),
                None => {
                    let name = name.decode().map_err(|error| error.to_string())?;
                    text.push_str(resolve_predefined_entity(&name).ok_or("it has an unknown entity")?);
                }
            },
            Event::Eof if starts.is_empty() => return Ok(()),
            Event::Eof => return Err("it breaks off".into()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_page_is_read() {
        let xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>c</Name><Prefix></Prefix>\n\
            <Contents><Key>a &amp; b&#34;é</Key><LastModified>2026-01-01T00:00:00Z</LastModified>\
            <ETag>&quot;e&quot;</ETag><Size>12</Size><Owner><ID>x</ID></Owner></Contents>\n\
            <Contents><Key>b</Key><Size>0</Size></Contents>\
            <CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes><CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>\
            <IsTruncated>true</IsTruncated><NextContinuationToken>t&lt;=</NextContinuationToken><Unknown/>\
            </ListBucketResult>";
        let page = listing(xml.as_bytes()).expect("listing");
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        let object = |key: &str, size, etag: Option<&str>, modified| Listed {
            key: key.into(),
            size,
            etag: etag.map(Into::into),
            modified,
        };
        let first = object("a & b\"é", 12, Some("\"e\""), Some(modified));
        assert_eq!(page.objects, [first, object("b", 0, None, None)]);
        assert_eq!((page.folders, page.token.as_deref()), (vec!["c/".into(), "d/".into()], Some("t<=")));
        assert!(page.truncated && !page.encoded);
    }

    #[test]
    fn an_incomplete_listing_is_an_error() {
        for text in [
            "",
            "<html></html>",
            "<ListBucketResult><Contents><Key>a</Key></Contents>",
            "<ListBucketResult></Contents>",
            "<Error><Code>SlowDown</Code></Error>",
            "<ListBucketResult>&unknown;</ListBucketResult>",
        ] {
            assert!(listing(text.as_bytes()).is_err(), "{text}");
        }
        assert!(listing(b"<ListBucketResult>\xff</ListBucketResult>").is_err());
        assert_eq!(listing(b"<ListBucketResult/>"), Err("it is not a listing".into()));
    }

    #[test]
    fn uploads_are_read() {
        let xml = "<?xml version=\"1.0\"?>\n<ListMultipartUploadsResult><Bucket>b</Bucket><Upload>\
            <Key>nar/a&amp;b</Key><UploadId>1</UploadId><Owner><ID>o</ID></Owner></Upload>\
            <Upload><UploadId>2</UploadId><Key>c</Key></Upload></ListMultipartUploadsResult>";
        let both = [("nar/a&b", "1"), ("c", "2")].map(|(key, id)| (key.to_owned(), id.to_owned()));
        assert_eq!(uploads(xml.as_bytes()), Ok(both.to_vec()));
        assert!(uploads(b"<ListBucketResult/>").is_err());
    }

    #[test]
    fn answers_about_multipart_uploads_are_read() {
        let begun = "<?xml version=\"1.0\"?><InitiateMultipartUploadResult><Key>k</Key><UploadId>a&amp;b</UploadId>\
            </InitiateMultipartUploadResult>";
        assert_eq!(upload_id(begun.as_bytes()), Ok(Some("a&b".into())));
        assert_eq!(upload_id(b"<InitiateMultipartUploadResult/>"), Ok(None));
        assert!(upload_id(b"<InitiateMultipartUploadResult>").is_err());
        for (inside, names) in [("<ETag>e</ETag>", true), ("<Key>k</Key>", true), ("<Other>o</Other>", false)]
        {
            let ended = format!("\n <CompleteMultipartUploadResult>{inside}</CompleteMultipartUploadResult>");
            assert_eq!(names_an_object(ended.as_bytes()), Ok(names));
        }
        assert_eq!(names_an_object(b""), Ok(false));
    }

    #[test]
    fn versions_are_read() {
        let xml = "<?xml version=\"1.0\"?>\n<ListVersionsResult><Name>c</Name><Prefix>a</Prefix>\
            <DeleteMarker><Key>a&amp;</Key><VersionId>2</VersionId><IsLatest>true</IsLatest></DeleteMarker>\
            <Version><Key>a&amp;</Key><VersionId>null</VersionId><Size>7</Size></Version>\
            <IsTruncated>true</IsTruncated><NextKeyMarker>a&amp;</NextKeyMarker>\
            <NextVersionIdMarker>1</NextVersionIdMarker></ListVersionsResult>";
        let version = |id: &str, is_marker, size| ("a&".into(), Version { id: id.into(), is_marker, size });
        let page = versions(xml.as_bytes()).expect("versions");
        assert_eq!(page.versions, [version("2", true, 0), version("null", false, 7)]);
        assert_eq!((page.truncated, page.next), (true, Some(("a&".into(), "1".into()))));
        for text in [
            "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
            "<ListVersionsResult><Version><Key>a</Key></Version></ListVersionsResult>",
            "<ListVersionsResult>",
            "",
        ] {
            assert!(versions(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn copies_have_entity_tags() {
        for (text, etag) in [
            ("<CopyObjectResult><ETag>&quot;e&quot;</ETag></CopyObjectResult>", Some("\"e\"")),
            ("<CopyPartResult><LastModified>x</LastModified><ETag>e</ETag></CopyPartResult>", Some("e")),
            ("<CopyObjectResult><ETag/></CopyObjectResult>", None),
            ("<html><ETag>e</ETag></html>", None),
            ("", None),
        ] {
            assert_eq!(entity_tag_of_copy(text.as_bytes()), Ok(etag.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn a_refusal_that_breaks_off_is_read_to_its_end() {
        let of = |text: &str| {
            let fault = fault(text.as_bytes());
            (fault.code, fault.message)
        };
        let both = || ("SlowDown".to_owned(), "wait a & little".to_owned());
        let inner = "<Error><Code>SlowDown</Code><Message>wait a &amp; little</Message>";
        assert_eq!(of(&format!("\n <?xml version=\"1.0\"?>\n{inner}</Error>")), both());
        assert_eq!(of(&format!("<ErrorResponse>{inner}</Error></ErrorResponse>")), both());
        assert_eq!(of(inner), both());
        assert_eq!(of("<html><Code>x</Code></html>"), Default::default());
        assert_eq!(of("busy"), Default::default());
        assert_eq!(of(""), Default::default());
    }
}
