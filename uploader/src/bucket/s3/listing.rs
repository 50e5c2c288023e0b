//! Listings of objects.

use std::time::SystemTime;

use http::Method;
use percent_encoding::percent_decode_str;

use super::connection::Connection;
use super::error::{Access, not_understood, refusal, without};
use super::request::Request;
use super::xml::read::{self as xml, Listing};
use crate::base::error::Result;
use crate::bucket::interface::{Cursor, Depth, ListPage, ObjectMeta, Position};

/// The most keys that S3 lists in one page.
const PAGE: &str = "1000";
/// The longest page that is read, in bytes.
pub(super) const MAX_PAGE: u64 = 32 << 20;

/// One page of the keys below `prefix`.
///
/// The request does not ask for `encoding-type=url`: servers encode keys differently, and XML can hold all keys that
/// larder writes.
pub(super) async fn list(
    connection: &Connection,
    prefix: &str,
    after: Option<&Cursor>,
    depth: Depth,
) -> Result<ListPage> {
    let shown = format!("{prefix}*");
    let what = || connection.what("list", &shown);
    let mut request = Request::new(Method::GET, "").limit(MAX_PAGE);
    match after.map(|cursor| &cursor.0) {
        Some(Position::Key(key)) => {
            request = request.query("start-after", connection.address.full_key(key));
        }
        Some(Position::Token(token)) => request = request.query("continuation-token", token),
        None => {}
    }
    if depth == Depth::OneLevel {
        request = request.query("delimiter", "/");
    }
    let whole = connection.address.full_key(prefix);
    let request = request.query("list-type", "2").query("max-keys", PAGE).query("prefix", whole);
    let reply = connection.send(request, what).await?;
    if !reply.is_success() {
        return Err(refusal(what(), Access::List, &reply));
    }
    let listing = xml::listing(&reply.body).map_err(|cause| not_understood(what(), &reply, &cause))?;
    let lead = connection.address.full_key("");
    let mut page = page(listing, &lead, reply.date())
        .ok_or_else(|| without(what(), "the listing is incomplete and does not say where it continues"))?;
    if page.next.is_some() && page.next.as_ref() == after {
        return Err(without(what(), "the listing has no end: the server names the same position again"));
    }
    if let Some(Position::Key(after)) = after.map(|cursor| &cursor.0) {
        // Some servers ignore `start-after`.
        page.objects.retain(|object| object.key > *after);
    }
    Ok(page)
}

/// Sorts a page and makes its keys relative to `lead`, the prefix of the address with its slash. `now` is the time of the
/// server when it sent the page.
///
/// Returns `None` if the server says that more keys follow, but not how to ask for them.
fn page(listing: Listing, lead: &str, now: Option<SystemTime>) -> Option<ListPage> {
    let relative = |key: String| {
        let mut key = if listing.encoded { url_decode(&key) } else { key };
        let below = key.len() > lead.len() && key.starts_with(lead);
        below.then(|| key.split_off(lead.len()))
    };
    let mut page = ListPage::default();
    page.objects.reserve(listing.objects.len());
    for object in listing.objects {
        if let Some(key) = relative(object.key) {
            let age = ObjectMeta::age(now, object.modified);
            page.objects.push(ObjectMeta { key, size: object.size, etag: object.etag, age });
        }
    }
    page.folders.extend(listing.folders.into_iter().filter_map(relative));
    page.objects.sort_by(|a, b| a.key.cmp(&b.key));
    page.folders.sort();
    if listing.truncated {
        page.next = match (listing.token, page.objects.last()) {
            (Some(token), _) => Some(Cursor(Position::Token(token))),
            (None, Some(last)) if page.folders.is_empty() => Some(Cursor::after(&last.key)),
            _ => return None,
        };
    }
    Some(page)
}

/// Decodes a key in the encoding of HTML forms, in which `+` is a space.
pub(super) fn url_decode(key: &str) -> String {
    percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned()
}
