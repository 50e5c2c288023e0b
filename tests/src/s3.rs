//! A minimal S3 client: signs (SigV4) and sends one request per connection. It creates and reads buckets without
//! the code under test.

use crate::http::{self, Response, encode_path, encode_query};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::time::{SystemTime, UNIX_EPOCH};

/// The address of a server, and credentials for it.
#[derive(Clone, Debug)]
pub struct Client {
    /// `http://HOST:PORT`
    pub endpoint: String,
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret_key: String,
    /// Region to sign for.
    pub region: String,
}

impl Client {
    /// The signer of this client.
    pub fn signer(&self) -> Signer {
        Signer {
            access_key: self.access_key.clone(),
            secret_key: self.secret_key.clone(),
            region: self.region.clone(),
            today: None,
        }
    }

    /// Sends a signed request for `path` (`/bucket/key`, not encoded) with a query.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        self.send_signed_at(SystemTime::now(), method, path, query, headers, body)
    }

    /// The same with another time of the signature.
    pub fn send_signed_at(
        &self,
        time: SystemTime,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let (host, _) = http::split_url(&self.endpoint)?;
        let path = encode_path(path);
        let mut query: Vec<_> =
            query.iter().map(|(k, v)| format!("{}={}", encode_query(k), encode_query(v))).collect();
        query.sort();
        let query = query.join("&");
        let signed = self.signer().sign_at(time, method, host, &path, &query, &hex(&Sha256::digest(body)))?;
        let mut all: Vec<_> = signed.iter().map(|(name, value)| (*name, value.as_str())).collect();
        all.extend_from_slice(headers);
        let url = format!("{}{path}{}{query}", self.endpoint, if query.is_empty() { "" } else { "?" });
        http::request(method, &url, &all, body).with_context(|| format!("{method} {url}"))
    }

    /// Creates a bucket.
    pub fn create_bucket(&self, bucket: &str) -> Result<()> {
        self.send("PUT", &format!("/{bucket}"), &[], &[], b"")?
            .ok()
            .with_context(|| format!("creating bucket {bucket}"))?;
        Ok(())
    }

    /// Lets anyone read the objects of a bucket (but not list it), on a server that has bucket policies.
    pub fn allow_anonymous_read(&self, bucket: &str) -> Result<()> {
        let policy = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":["*"]}},"Action":["s3:GetObject"],"Resource":["arn:aws:s3:::{bucket}/*"]}}]}}"#
        );
        self.set_policy(bucket, &policy)
    }

    /// Lets anyone list a bucket and read and write its objects, on a server that has bucket policies.
    pub fn allow_anonymous_write(&self, bucket: &str) -> Result<()> {
        let policy = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":["*"]}},"Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::{bucket}/*"]}},{{"Effect":"Allow","Principal":{{"AWS":["*"]}},"Action":["s3:ListBucket"],"Resource":["arn:aws:s3:::{bucket}"]}}]}}"#
        );
        self.set_policy(bucket, &policy)
    }

    fn set_policy(&self, bucket: &str, policy: &str) -> Result<()> {
        self.send("PUT", &format!("/{bucket}"), &[("policy", "")], &[], policy.as_bytes())?
            .ok()
            .context("setting a bucket policy")?;
        Ok(())
    }

    /// Writes an object.
    pub fn put(&self, bucket: &str, key: &str, body: &[u8]) -> Result<()> {
        self.send("PUT", &format!("/{bucket}/{key}"), &[], &[], body)?
            .ok()
            .with_context(|| format!("PUT {key}"))?;
        Ok(())
    }

    /// Reads an object; `None` when it is missing.
    pub fn get(&self, bucket: &str, key: &str) -> Result<Option<Vec<u8>>> {
        let response = self.send("GET", &format!("/{bucket}/{key}"), &[], &[], b"")?;
        if response.status() == 404 {
            return Ok(None);
        }
        Ok(Some(response.ok().with_context(|| format!("GET {key}"))?.body))
    }

    /// Removes an object.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<()> {
        self.send("DELETE", &format!("/{bucket}/{key}"), &[], &[], b"")?
            .ok()
            .with_context(|| format!("DELETE {key}"))?;
        Ok(())
    }

    /// All keys that begin with `prefix`, in the server's order, and their sizes.
    pub fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let mut query = vec![("list-type", "2"), ("prefix", prefix)];
            if !token.is_empty() {
                query.push(("continuation-token", &token));
            }
            let text =
                self.send("GET", &format!("/{bucket}"), &query, &[], b"")?.ok().context("listing")?.text();
            for entry in text.split("<Contents>").skip(1) {
                let key = tag(entry, "Key").context("an entry without Key")?;
                let size = tag(entry, "Size").and_then(|s| s.parse().ok()).unwrap_or(0);
                found.push((unescape(key), size));
            }
            match (tag(&text, "IsTruncated"), tag(&text, "NextContinuationToken")) {
                (Some("true"), Some(next)) => token = unescape(next),
                (Some("true"), None) => bail!("a truncated listing without a token"),
                _ => return Ok(found),
            }
        }
    }
}

/// Signs requests (SigV4). The key of the day is derived once.
#[derive(Clone, Debug)]
pub struct Signer {
    access_key: String,
    secret_key: String,
    region: String,
    today: Option<(String, [u8; 32])>,
}

impl Signer {
    /// The headers that sign a request, besides `Host`. Path and query are encoded, the query's parts sorted;
    /// `hash` is the body's SHA-256 in hex.
    pub fn sign(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        query: &str,
        hash: &str,
    ) -> Result<[(&'static str, String); 3]> {
        self.sign_at(SystemTime::now(), method, host, path, query, hash)
    }

    /// The same with another time of the signature.
    pub fn sign_at(
        &mut self,
        time: SystemTime,
        method: &str,
        host: &str,
        path: &str,
        query: &str,
        hash: &str,
    ) -> Result<[(&'static str, String); 3]> {
        let date = amz_date(time.duration_since(UNIX_EPOCH)?.as_secs());
        let day = &date[..8];
        let key = match &self.today {
            Some((of, key)) if of == day => *key,
            _ => {
                let first = hmac(format!("AWS4{}", self.secret_key).as_bytes(), day.as_bytes());
                let parts = [self.region.as_str(), "s3", "aws4_request"];
                let key = parts.iter().fold(first, |key, part| hmac(&key, part.as_bytes()));
                self.today = Some((day.to_owned(), key));
                key
            }
        };
        let signed = "host;x-amz-content-sha256;x-amz-date";
        let canonical = format!(
            "{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{hash}\nx-amz-date:{date}\n\n{signed}\n{hash}"
        );
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
        let signature = hex(&hmac(&key, to_sign.as_bytes()));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
            self.access_key
        );
        Ok([
            ("x-amz-date", date),
            ("x-amz-content-sha256", hash.to_owned()),
            ("Authorization", authorization),
        ])
    }
}

/// The text of the first `<name>…</name>`.
pub fn tag<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let end = xml[start..].find(&format!("</{name}>"))? + start;
    Some(&xml[start..end])
}

fn unescape(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#34;", "\"");
    text.replace("&apos;", "'").replace("&#39;", "'").replace("&amp;", "&")
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key))
    } else {
        block[..key.len()].copy_from_slice(key)
    }
    let pad = |with: u8| block.map(|b| b ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

/// `YYYYMMDDTHHMMSSZ` of a Unix time.
fn amz_date(time: u64) -> String {
    let (days, rest) = ((time / 86400) as i64, time % 86400);
    // Days to a date of the Gregorian calendar, counted from 0000-03-01.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (d, m) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let y = year + era * 400 + i64::from(m <= 2);
    format!("{y:04}{m:02}{d:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(amz_date(0), "19700101T000000Z");
        assert_eq!(amz_date(951_782_400), "20000229T000000Z");
        assert_eq!(amz_date(1_767_225_599), "20251231T235959Z");
    }

    #[test]
    fn a_signature_of_the_same_request_is_the_same_with_the_key_of_the_day_at_hand() -> Result<()> {
        let client = Client {
            endpoint: "http://127.0.0.1:1".into(),
            access_key: "A".into(),
            secret_key: "S".into(),
            region: "r".into(),
        };
        let mut signer = client.signer();
        let first = signer.sign("GET", "127.0.0.1:1", "/b/k", "", "")?;
        assert!(signer.today.is_some());
        let again = signer.sign("GET", "127.0.0.1:1", "/b/k", "", "")?;
        // The clock may have moved on by a second: a new signer then gives the expected signature.
        let fresh = client.signer().sign("GET", "127.0.0.1:1", "/b/k", "", "")?;
        assert!(again == first || again == fresh);
        assert_ne!(signer.sign("PUT", "127.0.0.1:1", "/b/k", "", "")?[2], fresh[2]);
        Ok(())
    }

    #[test]
    fn hmac_of_rfc_4231() {
        let mac = hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(hex(&mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
