//! Files that hold secret signing keys.

use std::path::Path;

use zeroize::Zeroizing;

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
    // The text is wiped from memory.
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| {
        failed(error.into())
            .hint("make a key with `larder key generate NAME`, or correct `signing-key-files`")
    })?);
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
            std::io::ErrorKind::AlreadyExists if path.is_dir() => {
                failed.because("it is a directory").hint("name the file of the key")
            }
            std::io::ErrorKind::AlreadyExists => failed.because("the file exists already").hint(
                "do not lose a key that has signed paths; choose another name, or another file with `--output`",
            ),
            _ => failed.because(error),
        }
    };
    let text =
        key.to_text().ok_or_else(|| failed(std::io::Error::other("larder does not have its secret half")))?;
    whole_file::create(path, text.as_bytes(), 0o600).map_err(failed)
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
        assert!(write_secret_key(&key, dir.path()).unwrap_err().to_string().contains("it is a directory"));
        let (read, warning) = read_secret_key(&path).unwrap();
        assert!(warning.is_none());
        let signature = read.sign("1;x").unwrap().to_nix_string();
        let keys = public_keys([key.public_text().as_str()]).unwrap();
        assert!(verified("1;x", std::slice::from_ref(&signature), &keys));
        assert!(!verified("1;y", &[signature, "rubbish".into()], &keys));
    }

    /// Whether a piece of 12 bytes of `text` is in the writable memory of this process. A bit of each byte of `text` is
    /// flipped, so that the search does not find itself.
    #[cfg(target_os = "linux")]
    fn is_in_memory(text: &[u8]) -> bool {
        use std::os::unix::fs::FileExt;
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mut is_start = [false; 256];
        text.iter().for_each(|byte| is_start[usize::from(byte ^ 1)] = true);
        maps.lines().filter(|line| line.contains(" rw")).any(|line| {
            let (from, to) = line.split(' ').next().and_then(|range| range.split_once('-')).unwrap();
            let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).unwrap());
            let mut bytes = Zeroizing::new(vec![0; usize::try_from(to - from).unwrap()]);
            // Another thread may have released the memory since.
            memory.read_exact_at(&mut bytes, from).is_ok()
                && bytes.windows(12).any(|found| {
                    let is_found = |piece: &[u8]| piece.iter().zip(found).all(|(a, b)| *a ^ 1 == *b);
                    is_start[usize::from(found[0])] && text.windows(12).any(is_found)
                })
        })
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_text_of_a_key_does_not_stay_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        write_secret_key(&SecretKey::generate("k-1").unwrap(), &path).unwrap();
        let (key, _) = read_secret_key(&path).unwrap();
        // The first half of the text after the name is the secret half.
        let file = std::fs::File::open(&path).unwrap();
        let mut flipped = [0; 42];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut flipped, 4).unwrap();
        flipped.iter_mut().for_each(|byte| *byte ^= 1);
        assert!(!is_in_memory(&flipped), "larder left a copy of the key");
        let text = key.to_text().unwrap();
        assert!(is_in_memory(&flipped), "the search does not find the text that is there: {}", text.len());
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
