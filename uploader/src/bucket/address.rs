//! Addresses of buckets, in the syntax of Nix's store URLs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

use super::address_parameters::refuse_parameter;
use super::key_syntax;
use crate::base::error::{Area, Cause, Error, Result};

/// The characters that stay unencoded in a segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The characters that stay unencoded in the value of a parameter.
const VALUE: &AsciiSet = &SEGMENT.remove(b':').remove(b'/').remove(b'[').remove(b']').remove(b',');

/// The address of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `s3://bucket/prefix?…`
    S3(S3Address),
    /// `file:///dir`, or an absolute path.
    Directory(PathBuf),
}

/// The address of a bucket on an S3-compatible server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Address {
    /// The bucket's name.
    pub bucket: String,
    /// The prefix of all keys, without slashes at its ends. Empty without a prefix.
    pub prefix: String,
    /// `endpoint=` and `scheme=` as a URL without a slash at its end. `None` for AWS.
    pub endpoint: Option<String>,
    /// `region=`. Without it, the environment, the profile or a default decides.
    pub region: Option<String>,
    /// `profile=`: the section in the AWS configuration files.
    pub profile: Option<String>,
    /// `addressing-style=`.
    pub style: AddressingStyle,
    /// `imds=true`: credentials may come from the metadata service of this machine or container.
    pub imds: bool,
}

/// The position of the bucket's name in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressingStyle {
    /// In the path if the address has an endpoint, in the host name on AWS.
    #[default]
    Auto,
    /// In the path.
    Path,
    /// In the host name.
    Virtual,
}

/// The values of `addressing-style=`.
const STYLES: [(&str, AddressingStyle); 3] =
    [("auto", AddressingStyle::Auto), ("path", AddressingStyle::Path), ("virtual", AddressingStyle::Virtual)];

impl Address {
    /// The address of the objects below another prefix of the same bucket, or below a folder of the directory. `prefix` may
    /// end with a slash.
    ///
    /// # Errors
    /// A permanent error of the configuration if no key can begin with the prefix.
    pub fn with_prefix(&self, prefix: &str) -> Result<Self> {
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if let Some(wrong) = key_syntax::fault(prefix) {
            let what = format!("cannot use the prefix `{}`", prefix.escape_debug());
            return Err(Error::permanent(Area::Config, what).because(wrong));
        }
        Ok(match self {
            Self::S3(address) => Self::S3(S3Address { prefix: prefix.to_owned(), ..address.clone() }),
            Self::Directory(root) => Self::Directory(root.join(prefix)),
        })
    }
}

impl S3Address {
    /// Whether the name of the bucket is in the path.
    pub fn path_style(&self) -> bool {
        match self.style {
            AddressingStyle::Auto => self.endpoint.is_some(),
            AddressingStyle::Path => true,
            AddressingStyle::Virtual => false,
        }
    }

    /// The full key on the server for a key, or the start of a key, relative to the prefix.
    pub fn full_key(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) }
    }

    /// The URL of the objects for readers without credentials, if the bucket is in `region`.
    pub fn public_url(&self, region: &str) -> String {
        let mut url = match &self.endpoint {
            Some(endpoint) if self.path_style() => format!("{endpoint}/{}", self.bucket),
            Some(endpoint) => match endpoint.split_once("://") {
                Some((scheme, rest)) => format!("{scheme}://{}.{rest}", self.bucket),
                None => endpoint.clone(),
            },
            None => {
                let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
                if self.path_style() || self.bucket.contains('.') {
                    // The certificate of AWS is valid for one label before `s3`.
                    format!("https://s3.{region}.{suffix}/{}", self.bucket)
                } else {
                    format!("https://{}.s3.{region}.{suffix}", self.bucket)
                }
            }
        };
        push_path(&mut url, &self.prefix);
        url
    }
}

/// The `file://` URL of a directory.
pub(crate) fn file_url(path: &Path) -> String {
    let mut url = String::from("file://");
    push_path(&mut url, path.to_string_lossy().trim_start_matches('/'));
    if url.len() == "file://".len() {
        url.push('/');
    }
    url
}

fn push_path(url: &mut String, path: &str) {
    if !path.is_empty() {
        for segment in path.split('/') {
            url.push('/');
            url.extend(utf8_percent_encode(segment, SEGMENT));
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3(address) => address.fmt(f),
            Self::Directory(path) => f.write_str(&file_url(path)),
        }
    }
}

impl fmt::Display for S3Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("s3://{}", self.bucket);
        push_path(&mut text, &self.prefix);
        let mut mark = '?';
        let mut param = |name: &str, value: &str| {
            text.push(mark);
            mark = '&';
            text.push_str(name);
            text.push('=');
            text.extend(utf8_percent_encode(value, VALUE));
        };
        if let Some(endpoint) = &self.endpoint {
            match endpoint.split_once("://") {
                Some((scheme, host)) if !host.contains('/') => {
                    param("endpoint", host);
                    if scheme == "http" {
                        param("scheme", scheme);
                    }
                }
                _ => param("endpoint", endpoint),
            }
        }
        if let Some(region) = &self.region {
            param("region", region);
        }
        if let Some(profile) = &self.profile {
            param("profile", profile);
        }
        match self.style {
            AddressingStyle::Auto => {}
            AddressingStyle::Path => param("addressing-style", "path"),
            AddressingStyle::Virtual => param("addressing-style", "virtual"),
        }
        if self.imds {
            param("imds", "true");
        }
        f.write_str(&text)
    }
}

impl FromStr for Address {
    type Err = Error;

    /// Reads an address. Fails with a permanent configuration error that names the wrong part.
    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with('/') {
            return directory(text, text.to_owned());
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(fault(text, "it has no scheme")
                .hint("an address looks like `s3://bucket?endpoint=host:port` or `file:///dir`"));
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        if rest.contains('#') {
            return Err(fault(text, "it has a `#`").hint("write `%23` for a `#` that is part of a name"));
        }
        match scheme {
            "s3" => Ok(Self::S3(s3(text, place, query)?)),
            "file" => {
                if let Some((name, _)) = parameters(text, query)?.first() {
                    return Err(refuse_parameter(fault_what(text), name));
                }
                if !place.starts_with('/') {
                    return Err(fault(text, "a `file://` address needs an absolute path")
                        .hint("write three slashes: `file:///dir`"));
                }
                directory(text, decode(text, place)?)
            }
            "http" | "https" => Err(fault(text, "a bucket cannot be written over plain HTTP").hint(
                "readers use such a URL; larder writes to `s3://bucket?endpoint=host:port` or `file:///dir`",
            )),
            other => Err(fault(text, format!("the scheme `{other}` is unknown"))
                .hint("larder writes to `s3://…` and `file:///…`")),
        }
    }
}

fn s3(text: &str, place: &str, query: &str) -> Result<S3Address> {
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.contains('@') {
        return Err(fault(text, "it has a user before the bucket's name")
            .hint("credentials come from the environment, a profile or a file, never from the address"));
    }
    let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if bucket.is_empty() || bucket.len() > 255 || bucket.contains(odd) || bucket.starts_with('.') {
        return Err(fault(text, "it has no name of a bucket")
            .hint("a name has letters, digits, `-` and `.`; a port belongs in `endpoint=`"));
    }
    let prefix = decode(text, prefix.strip_suffix('/').unwrap_or(prefix))?;
    if !prefix.is_empty()
        && let Some(wrong) = key_syntax::fault(&prefix)
    {
        return Err(fault(text, format!("its prefix cannot be used: {wrong}")));
    }

    let mut address = S3Address {
        bucket: bucket.to_owned(),
        prefix,
        endpoint: None,
        region: None,
        profile: None,
        style: AddressingStyle::Auto,
        imds: false,
    };
    let (mut endpoint, mut scheme) = (None, None);
    for (name, value) in parameters(text, query)? {
        match name.as_str() {
            "endpoint" => endpoint = Some(value),
            "scheme" => scheme = Some(one_of(text, &name, &value, &[("http", "http"), ("https", "https")])?),
            "region" => address.region = Some(region(text, value)?),
            "profile" => address.profile = Some(value),
            "addressing-style" => address.style = one_of(text, &name, &value, &STYLES)?,
            "imds" => address.imds = one_of(text, &name, &value, &[("true", true), ("false", false)])?,
            _ => return Err(refuse_parameter(fault_what(text), &name)),
        }
    }
    address.endpoint = match (endpoint, scheme) {
        (Some(endpoint), scheme) => Some(endpoint_url(text, &endpoint, scheme)?),
        (None, Some("http")) => {
            return Err(fault(text, "`scheme=http` needs an `endpoint`")
                .hint("AWS is reached over HTTPS; for another server add `endpoint=host:port`"));
        }
        (None, _) => None,
    };
    Ok(address)
}

/// The meaning of a value out of a list of values.
fn one_of<T: Copy>(text: &str, name: &str, value: &str, values: &[(&str, T)]) -> Result<T> {
    if let Some((_, meaning)) = values.iter().find(|(known, _)| *known == value) {
        return Ok(*meaning);
    }
    let mut known: Vec<String> = values.iter().map(|(known, _)| format!("`{known}`")).collect();
    let last = known.pop().unwrap_or_default();
    Err(fault(text, format!("`{name}` is {} or {last}", known.join(", "))))
}

fn region(text: &str, value: String) -> Result<String> {
    let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if value.contains(odd) {
        return Err(fault(text, "`region` is not a name of a region"));
    }
    Ok(value)
}

/// The URL of an endpoint, which is given as `host:port` or as a URL. Without a slash at its end.
fn endpoint_url(text: &str, endpoint: &str, scheme: Option<&str>) -> Result<String> {
    let whole = if endpoint.contains("://") {
        endpoint.to_owned()
    } else {
        format!("{}://{endpoint}", scheme.unwrap_or("https"))
    };
    let url =
        Url::parse(&whole).map_err(|error| fault(text, format!("its `endpoint` is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(fault(text, "its `endpoint` is neither `http` nor `https`"));
    }
    if scheme.is_some_and(|scheme| scheme != url.scheme()) {
        return Err(fault(text, "`scheme` contradicts the URL in `endpoint`"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(fault(text, "its `endpoint` has a user")
            .hint("credentials come from the environment, a profile or a file, never from the address"));
    }
    if url.query().is_some() || url.fragment().is_some() || !url.has_host() {
        return Err(fault(text, "its `endpoint` is more than scheme, host, port and path"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn directory(text: &str, path: String) -> Result<Address> {
    if path.contains('\0') {
        return Err(fault(text, "it has a null byte"));
    }
    if path.split('/').any(|segment| segment == "..") {
        return Err(fault(text, "it has a segment `..`"));
    }
    // Collecting the components drops double slashes, `.` and a slash at the end.
    Ok(Address::Directory(Path::new(&path).components().collect()))
}

fn parameters(text: &str, query: &str) -> Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let (name, value) = (decode(text, name)?, decode(text, value)?);
        if found.iter().any(|(other, _)| *other == name) {
            return Err(fault(text, format!("the parameter `{}` is given twice", name.escape_debug())));
        }
        if value.chars().any(char::is_control) {
            return Err(fault(
                text,
                format!("the parameter `{}` has a control character", name.escape_debug()),
            ));
        }
        // Nix ignores a parameter with an empty value.
        if !value.is_empty() || !super::address_parameters::OWN.contains(&name.as_str()) {
            found.push((name, value));
        }
    }
    Ok(found)
}

fn decode(text: &str, part: &str) -> Result<String> {
    let bytes = part.as_bytes();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        let digits = bytes.get(at + 1..at + 3).unwrap_or_default();
        if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(fault(text, "a `%` is not followed by two hexadecimal digits")
                .hint("write `%25` for a `%` that is part of a name"));
        }
    }
    match percent_decode_str(part).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(fault(text, "it is not UTF-8")),
    }
}

fn fault(text: &str, cause: impl Into<Cause>) -> Error {
    Error::permanent(Area::Config, fault_what(text)).because(cause)
}

/// Names the address without its parameters and its user, because both may hold a secret.
fn fault_what(text: &str) -> String {
    let place = text.split(['?', '#']).next().unwrap_or_default();
    let place = match place.rsplit_once('@') {
        Some((before, after)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            format!("{scheme}://…@{after}")
        }
        None => place.to_owned(),
    };
    format!("cannot use `{}` as the address of a bucket", place.escape_debug())
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
