//! What holds for the readers of [`read`](super::read) and any bytes.

use quick_xml::escape::escape;

use super::read;

/// A listing can be written and read again, and a listing that breaks off is an error.
pub(in super::super) fn listing(body: &[u8]) {
    let Ok(page) = read::listing(body) else { return };
    let mut text = String::from("<ListBucketResult>");
    let mut add = |name: &str, value: &str| text.push_str(&format!("<{name}>{}</{name}>", escape(value)));
    add("IsTruncated", if page.truncated { "true" } else { "false" });
    add("EncodingType", if page.encoded { "url" } else { "" });
    page.token.iter().for_each(|token| add("NextContinuationToken", token));
    for folder in &page.folders {
        text.push_str(&format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(folder)));
    }
    for object in &page.objects {
        let etag = object.etag.as_ref().map(|etag| format!("<ETag>{}</ETag>", escape(etag)));
        let (key, size, etag) = (escape(&object.key), object.size, etag.unwrap_or_default());
        text.push_str(&format!("<Contents><Key>{key}</Key><Size>{size}</Size>{etag}</Contents>"));
    }
    text.push_str("</ListBucketResult>");
    let again = read::listing(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
    let objects = |page: &read::Listing| {
        let parts = |object: &read::Listed| (object.key.clone(), object.size, object.etag.clone());
        page.objects.iter().map(parts).collect::<Vec<_>>()
    };
    assert_eq!(objects(&again), objects(&page), "{text}");
    assert_eq!((&again.folders, &again.token), (&page.folders, &page.token), "{text}");
    assert_eq!((again.truncated, again.encoded), (page.truncated, page.encoded), "{text}");
    for cut in 1..16 {
        let at = text.len() * cut / 16;
        assert!(!text.is_char_boundary(at) || read::listing(&text.as_bytes()[..at]).is_err(), "{text}, {at}");
    }
}

/// A listing of uploads can be written and read again.
pub(in super::super) fn uploads(body: &[u8]) {
    let Ok(found) = read::uploads(body) else { return };
    let mut text = String::from("<ListMultipartUploadsResult>");
    for (key, id) in &found {
        let (key, id) = (escape(key), escape(id));
        text.push_str(&format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId></Upload>"));
    }
    text.push_str("</ListMultipartUploadsResult>");
    assert_eq!(read::uploads(text.as_bytes()).as_ref(), Ok(&found), "{text}");
}

/// A listing of versions can be written and read again, and each version has an id.
pub(in super::super) fn versions(body: &[u8]) {
    let Ok(page) = read::versions(body) else { return };
    let mut text = String::from("<ListVersionsResult>");
    for (key, version) in &page.versions {
        assert!(!version.id.is_empty());
        let (name, key, id) =
            (if version.is_marker { "DeleteMarker" } else { "Version" }, escape(key), escape(&version.id));
        let size = if version.is_marker { String::new() } else { format!("<Size>{}</Size>", version.size) };
        text.push_str(&format!("<{name}><Key>{key}</Key><VersionId>{id}</VersionId>{size}</{name}>"));
    }
    text.push_str("</ListVersionsResult>");
    let again = read::versions(text.as_bytes()).map(|page| page.versions);
    assert_eq!(again.as_ref(), Ok(&page.versions), "{text}");
    let _ = read::entity_tag_of_copy(body);
    let _ = read::undeleted(body);
}

/// An upload has an id, and only the answer to a completion says that an object exists.
pub(in super::super) fn multipart(body: &[u8]) {
    if let Ok(Some(id)) = read::upload_id(body) {
        assert!(!id.is_empty() && id.trim() == id, "{id}");
    }
    if read::names_an_object(body) == Ok(true) {
        assert!(String::from_utf8_lossy(body).contains("CompleteMultipartUploadResult"));
    }
}

/// A refusal has a code only if its body has an error in it, and the question for it finds no less.
pub(in super::super) fn fault(body: &[u8]) {
    let fault = read::fault(body);
    assert!(fault.code.trim() == fault.code && fault.message.trim() == fault.message);
    if !fault.code.is_empty() {
        assert!(String::from_utf8_lossy(body).contains("Error"));
    }
    let _ = read::may_be_a_fault(body);
}
