//! The versions of an object that a bucket keeps.

use http::Method;

use super::connection::Connection;
use super::error::{Access, not_understood, refusal, without};
use super::listing::{MAX_PAGE, url_decode};
use super::reply::Reply;
use super::request::Request;
use super::xml::read;
use crate::base::error::Result;
use crate::bucket::interface::Version;

/// The most pages of a listing: a thousand versions are on each.
const MOST: usize = 1000;

/// The versions and deletion markers of the object `key`.
pub(super) async fn list(connection: &Connection, key: &str) -> Result<Vec<Version>> {
    let what = || connection.what("list the versions of", key);
    let whole = connection.address.full_key(key);
    let (mut found, mut from) = (Vec::new(), None::<(String, String)>);
    for _ in 0..MOST {
        let mut request = Request::new(Method::GET, "").query("versions", "").limit(MAX_PAGE);
        if let Some((key, id)) = &from {
            request = request.query("key-marker", key.as_str());
            if !id.is_empty() {
                request = request.query("version-id-marker", id.as_str());
            }
        }
        let reply = connection.send(request.query("prefix", whole.as_str()), what).await?;
        if knows_no_versions(&reply) {
            return Ok(Vec::new());
        }
        if !reply.is_success() {
            return Err(refusal(what(), Access::ListVersions, &reply));
        }
        let page = read::versions(&reply.body).map_err(|cause| not_understood(what(), &reply, &cause))?;
        let decoded = |key: String| if page.encoded { url_decode(&key) } else { key };
        let of_it = |(key, version)| (decoded(key) == whole).then_some(version);
        // Keys that only begin like this one are other objects.
        found.extend(page.versions.into_iter().filter_map(of_it));
        if !page.truncated {
            return Ok(found);
        }
        let next = page.next.map(|(key, id)| (decoded(key), id));
        if next.is_none() || next == from {
            return Err(without(what(), "the listing is incomplete and does not say where it continues"));
        }
        from = next;
    }
    Err(without(what(), "the listing has no end"))
}

/// Whether the answer says clearly that the server has no versions. A refusal for another reason says nothing of the kind.
fn knows_no_versions(reply: &Reply) -> bool {
    matches!(reply.answer(), (501, _) | (_, "NotImplemented"))
}

/// Removes a version for ever.
pub(super) async fn delete(connection: &Connection, key: &str, id: &str) -> Result<()> {
    let what = || connection.what("delete a version of", key);
    let request = connection.request(Method::DELETE, key).query("versionId", id);
    let reply = connection.send(request, what).await?;
    let is_absent = reply.proves_absence() || matches!(reply.answer(), (404, "NoSuchVersion"));
    if reply.is_success() || is_absent {
        return Ok(());
    }
    Err(refusal(what(), Access::DeleteVersion, &reply))
}
