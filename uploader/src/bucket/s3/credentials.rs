//! The sources of the credentials and the region of an S3 bucket.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::{EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider};
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as Provided;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_types::region::Region;
use zeroize::Zeroizing;

use crate::base::error::{Area, Error, Result};
use crate::bucket::address::S3Address;
use crate::http::{CredentialsClient, Trust};

/// The region if neither the address, the environment nor the profile names a region.
const DEFAULT_REGION: &str = "us-east-1";

/// The largest credentials file that is read, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// The region from the address. Without a region in the address: the default region if the address has an endpoint, and
/// otherwise the region from the environment or the profile.
pub(super) async fn region(address: &S3Address) -> Region {
    if let Some(region) = &address.region {
        return Region::new(region.clone());
    }
    if address.endpoint.is_some() {
        return Region::from_static(DEFAULT_REGION);
    }
    if let Some(region) = EnvironmentVariableRegionProvider::new().region().await {
        return region;
    }
    let mut profile = ProfileFileRegionProvider::builder().configure(&ProviderConfig::default());
    if let Some(name) = &address.profile {
        profile = profile.profile_name(name);
    }
    profile.build().region().await.unwrap_or(Region::from_static(DEFAULT_REGION))
}

/// The provider of the credentials. If `file` is given, it is the only source. Otherwise the source is the profile that the
/// address names. If the address names no profile, the sources are the environment, a web identity, and the profile that
/// the environment names. If the address has `imds=true`, the metadata service of the container or machine comes last.
///
/// Fails if `file` cannot be read or understood. The first request asks the other sources.
pub(super) fn provider(
    address: &S3Address,
    file: Option<&Path>,
    region: &Region,
    trust: &Trust,
) -> Result<SharedCredentialsProvider> {
    if let Some(file) = file {
        return Ok(SharedCredentialsProvider::new(CredentialsFile::open(file, address.profile.clone())?));
    }

    let profile = Profile { name: address.profile.clone(), region: region.clone(), trust: trust.clone() };
    let mut chain = if address.profile.is_some() {
        CredentialsProviderChain::first_try("profile", profile)
    } else {
        let remote = remote(region, trust);
        let identity = WebIdentityTokenCredentialsProvider::builder().configure(&remote).build();
        CredentialsProviderChain::first_try("environment", EnvironmentVariableCredentialsProvider::new())
            .or_else("web identity", identity)
            .or_else("profile", profile)
    };
    if address.imds {
        let local = ProviderConfig::default()
            .with_region(Some(region.clone()))
            .with_http_client(CredentialsClient::new(trust.clone(), false));
        chain = chain
            .or_else("container", EcsCredentialsProvider::builder().configure(&local).build())
            .or_else("machine", ImdsCredentialsProvider::builder().configure(&local).build());
    }
    Ok(SharedCredentialsProvider::new(chain))
}

/// The settings of providers that may ask a server on the internet.
fn remote(region: &Region, trust: &Trust) -> ProviderConfig {
    ProviderConfig::default()
        .with_region(Some(region.clone()))
        .with_http_client(CredentialsClient::new(trust.clone(), true))
}

/// A profile in the AWS configuration files. The SDK's provider reads the files once. So larder makes a new provider each
/// time that credentials are loaded, and notices changed credentials.
struct Profile {
    name: Option<String>,
    region: Region,
    trust: Trust,
}

impl ProvideCredentials for Profile {
    fn provide_credentials<'a>(&'a self) -> Provided<'a>
    where
        Self: 'a,
    {
        let mut profile =
            ProfileFileCredentialsProvider::builder().configure(&remote(&self.region, &self.trust));
        if let Some(name) = &self.name {
            profile = profile.profile_name(name);
        }
        Provided::new(async move { profile.build().provide_credentials().await })
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Checks that a credentials file can be read and understood. `profile` is the section, by default `default`.
///
/// # Errors
/// The error never repeats the contents of the file.
pub fn check_credentials_file(file: &Path, profile: Option<&str>) -> Result<()> {
    CredentialsFile::open(file, profile.map(str::to_owned)).map(drop)
}

/// A credentials file. It is read each time that credentials are loaded, so that larder notices changed credentials.
struct CredentialsFile {
    file: PathBuf,
    profile: Option<String>,
}

impl CredentialsFile {
    /// Fails if the file cannot be read or understood.
    fn open(file: &Path, profile: Option<String>) -> Result<Self> {
        let this = Self { file: file.to_owned(), profile };
        match this.read() {
            Ok(_) => Ok(this),
            Err(cause) => {
                let what = format!("cannot use the credentials file `{}`", file.display());
                Err(Error::permanent(Area::Credentials, what).because(cause).hint(
                    "the file holds `AWS_ACCESS_KEY_ID=…` and `AWS_SECRET_ACCESS_KEY=…`, or the two values on a line \
                     each, or a section as in `~/.aws/credentials`",
                ))
            }
        }
    }

    fn read(&self) -> Result<Credentials, String> {
        let size = std::fs::metadata(&self.file).map_err(|error| error.to_string())?.len();
        if size > MAX_FILE {
            return Err("it is too large".into());
        }
        // All copies of the secret are wiped from memory when they are dropped, also the copy in `Credentials`.
        let text = Zeroizing::new(std::fs::read_to_string(&self.file).map_err(|error| error.to_string())?);
        let Found { id, mut secret, mut token } = parse(&text, self.profile.as_deref())?;
        Ok(Credentials::new(id, std::mem::take(&mut *secret), token.take(), None, "credentials file"))
    }
}

impl ProvideCredentials for CredentialsFile {
    fn provide_credentials<'a>(&'a self) -> Provided<'a>
    where
        Self: 'a,
    {
        Provided::ready(self.read().map_err(CredentialsError::invalid_configuration))
    }
}

impl fmt::Debug for CredentialsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsFile").field("file", &self.file).finish_non_exhaustive()
    }
}

/// The contents of a credentials file.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: String,
    pub(super) secret: Zeroizing<String>,
    pub(super) token: Zeroizing<Option<String>>,
}

/// Reads the three formats. Of the text, error messages show only the names of sections.
pub(super) fn parse(text: &str, profile: Option<&str>) -> Result<Found, String> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        .collect();
    let first = lines.first().ok_or("it is empty")?;
    if first.starts_with('[') {
        return assignments(section(&lines, profile)?);
    }
    if first.contains('=') {
        return assignments(&lines);
    }
    match lines.as_slice() {
        [id, secret] => {
            Ok(Found { id: (*id).into(), secret: Zeroizing::new((*secret).into()), ..Found::default() })
        }
        _ => Err("it has neither assignments nor two lines".into()),
    }
}

fn section<'a, 'b>(lines: &'a [&'b str], profile: Option<&str>) -> Result<&'a [&'b str], String> {
    let heads: Vec<(usize, &str)> = lines
        .iter()
        .enumerate()
        .filter_map(|(at, line)| {
            let name = line.strip_prefix('[')?.split(']').next()?.trim();
            Some((at, name.strip_prefix("profile ").map_or(name, str::trim)))
        })
        .collect();
    let wanted = profile.unwrap_or("default");
    let at = match heads.iter().position(|(_, name)| *name == wanted) {
        Some(at) => at,
        None if profile.is_none() && heads.len() == 1 => 0,
        None => return Err(format!("it has no section `[{wanted}]`")),
    };
    let end = heads.get(at + 1).map_or(lines.len(), |(line, _)| *line);
    Ok(&lines[heads[at].0 + 1..end])
}

fn assignments(lines: &[&str]) -> Result<Found, String> {
    let mut found = Found::default();
    for line in lines {
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else {
            return Err("a line is not an assignment".into());
        };
        let value = value.trim();
        let value = ['"', '\'']
            .iter()
            .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
            .unwrap_or(value);
        match name.trim().to_ascii_lowercase().as_str() {
            "aws_access_key_id" => found.id = value.to_owned(),
            "aws_secret_access_key" => found.secret = Zeroizing::new(value.to_owned()),
            "aws_session_token" => {
                found.token = Zeroizing::new((!value.is_empty()).then(|| value.to_owned()));
            }
            _ => {}
        }
    }
    if found.id.is_empty() {
        return Err("it has no access key (`AWS_ACCESS_KEY_ID`)".into());
    }
    if found.secret.is_empty() {
        return Err("it has no secret key (`AWS_SECRET_ACCESS_KEY`)".into());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str, profile: Option<&str>) -> (String, String, Option<String>) {
        let found = parse(text, profile).expect(text);
        (found.id, found.secret.to_string(), found.token.as_ref().cloned())
    }

    #[test]
    fn three_formats_are_read() {
        let plain = ("id".to_owned(), "s=/+".to_owned(), None);
        assert_eq!(parts("id\ns=/+\n", None), plain);
        assert_eq!(parts("AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY=s=/+\n", None), plain);
        assert_eq!(
            parts("# c\nexport AWS_ACCESS_KEY_ID=\"id\"\nexport AWS_SECRET_ACCESS_KEY='s=/+'\nX=1", None),
            plain
        );
        let ini = "[default]\naws_access_key_id = id\naws_secret_access_key = s=/+\n\n\
                   [profile b]\naws_access_key_id=b\naws_secret_access_key=bs\naws_session_token=t\n";
        assert_eq!(parts(ini, None), plain);
        assert_eq!(parts(ini, Some("b")), ("b".into(), "bs".into(), Some("t".into())));
        assert_eq!(parts("[only]\naws_access_key_id=id\naws_secret_access_key=s=/+", None), plain);
    }

    #[test]
    fn errors_do_not_show_the_secret() {
        for text in [
            "",
            "hunter2",
            "a\nb\nhunter2",
            "AWS_SECRET_ACCESS_KEY=hunter2",
            "AWS_ACCESS_KEY_ID=a\nhunter2",
            "[x]\naws_access_key_id=a\n[y]\naws_secret_access_key=hunter2",
        ] {
            let message = parse(text, None).err().expect(text);
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("credentials");
        std::fs::write(&file, "id\nhunter2\n").expect("write");
        let provider = CredentialsFile { file, profile: None };
        let credentials = provider.read().expect("read");
        assert!(!format!("{provider:?} {credentials:?}").contains("hunter2"));
    }
}
