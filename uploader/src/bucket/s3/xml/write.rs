//! Writing of the XML documents that larder sends.

use quick_xml::escape::escape;

const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// The body of `CompleteMultipartUpload`: the numbers and entity tags of all parts, in order.
pub(in super::super) fn parts<'a>(parts: impl Iterator<Item = (u32, &'a str)>) -> String {
    let mut content = String::new();
    for (number, etag) in parts {
        let number = number.to_string();
        content.push_str(&element("Part", &(text("PartNumber", &number) + &text("ETag", etag))));
    }
    document("CompleteMultipartUpload", &content)
}

/// The body of `DeleteObjects`: the full keys. The answer names only those that could not be deleted.
pub(in super::super) fn deletion<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    let mut content = text("Quiet", "true");
    keys.for_each(|key| content.push_str(&element("Object", &text("Key", key))));
    document("Delete", &content)
}

/// The body of `CreateBucket` for a bucket in `region`.
pub(in super::super) fn location(region: &str) -> String {
    document("CreateBucketConfiguration", &text("LocationConstraint", region))
}

fn document(name: &str, content: &str) -> String {
    format!("<{name} xmlns=\"{NAMESPACE}\">{content}</{name}>")
}

fn element(name: &str, content: &str) -> String {
    format!("<{name}>{content}</{name}>")
}

fn text(name: &str, text: &str) -> String {
    element(name, &escape(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_complete_and_escaped() {
        assert_eq!(
            parts([(1, "\"a&b\""), (2, "c")].into_iter()),
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Part><PartNumber>1</PartNumber><ETag>&quot;a&amp;b&quot;</ETag></Part>\
             <Part><PartNumber>2</PartNumber><ETag>c</ETag></Part></CompleteMultipartUpload>"
        );
        assert_eq!(
            deletion(["a<b", "c"].into_iter()),
            "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>\
             <Object><Key>a&lt;b</Key></Object><Object><Key>c</Key></Object></Delete>"
        );
        assert_eq!(
            location("eu-west-1"),
            "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>"
        );
    }
}
