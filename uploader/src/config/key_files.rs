//! Files that hold secret signing keys.

use std::path::Path;

use super::secret_file::exposure;
use crate::base::error::{Area, Cause, Error, Result};
use crate::base::whole_file;
use crate::format::signature::SecretKey;

/// Reads a secret key. The second value is a warning if other users can read the file.
///
/// # Errors
/// The file cannot be read, or does not hold a secret key. The error never repeats the contents of the file.
pub fn read_secret_key(path: &Path) -> Result<(SecretKey, Option<String>)> {
    let failed = |cause: Cause| {
        Error::permanent(Area::Config, format!("cannot use the signing key `{}`", path.display()))
            .because(cause)
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        failed(error.into())
            .hint("make a key with `larder key generate NAME`, or correct `signing-key-files`")
    })?;
    let key = SecretKey::parse(&text).map_err(|reason| {
        failed(reason.into()).hint("a key file holds one line, `name:base64`, as `larder key generate` and `nix-store --generate-binary-cache-key` write it")
    })?;
    Ok((key, exposure("the signing key", path)))
}

/// Writes a secret key into a new file with mode 0600.
///
/// # Errors
/// The file exists already, or cannot be written.
pub fn write_secret_key(key: &SecretKey, path: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        let failed = Error::permanent(Area::General, format!("cannot write `{}`", path.display()));
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => failed.because("the file exists already").hint(
                "do not lose a key that has signed paths; choose another name, or another file with `--output`",
            ),
            _ => failed.because(error),
        }
    };
    whole_file::create(path, key.to_text().as_bytes(), 0o600).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::format::public_key::public_keys;
    use crate::format::signature::verified;

    #[test]
    fn a_key_read_from_its_file_makes_valid_signatures() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        let key = SecretKey::generate("cache.example-1").unwrap();
        write_secret_key(&key, &path).unwrap();
        assert!(write_secret_key(&key, &path).unwrap_err().to_string().contains("exists already"));
        let (read, warning) = read_secret_key(&path).unwrap();
        assert!(warning.is_none());
        let signature = read.sign("1;x").to_nix_string();
        let keys = public_keys([key.public_text().as_str()]).unwrap();
        assert!(verified("1;x", std::slice::from_ref(&signature), &keys));
        assert!(!verified("1;y", &[signature, "rubbish".into()], &keys));
    }

    #[test]
    fn a_key_that_others_can_read_causes_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        write_secret_key(&SecretKey::generate("k-1").unwrap(), &path).unwrap();
        for (mode, who) in [(0o644, "by everybody"), (0o604, "by everybody"), (0o640, "by its group")] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let warning = read_secret_key(&path).unwrap().1.unwrap();
            assert!(warning.contains("chmod 600") && warning.contains(who), "{warning}");
        }
    }

    #[test]
    fn an_error_about_a_file_does_not_repeat_its_contents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        std::fs::write(&path, "k:c2VjcmV0").unwrap();
        let error = read_secret_key(&path).unwrap_err();
        assert!(!error.to_string().contains("c2VjcmV0"), "{error}");
        assert!(error.hint_text().is_some());
    }
}
