//! The data that the hook and the queue parse.

use larder_hook::environment::Environment;
use larder_hook::queue::Job;
use larder_hook::{drv, store_path::StorePath};

const DIR: &str = "/nix/store";

/// The file of a job: parsing the written text gives the same job.
pub(super) fn job(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(job) = Job::parse(DIR, &text) else { return };
    for path in job.paths.iter().chain(&job.deriver) {
        assert!(StorePath::parse(DIR, path.as_str()).is_ok());
    }
    let again = Job::parse(DIR, &job.to_text());
    assert_eq!(again.as_ref(), Ok(&job), "{}", job.to_text());
}

/// The outputs of a derivation.
pub(super) fn derivation(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for (name, path) in drv::outputs(&text).unwrap_or_default() {
        assert!(name.len() + path.len() <= text.len());
    }
}

/// The environment of a hook: three texts, separated by zero bytes, then the derivation that `DRV_PATH` names.
pub(super) fn environment(bytes: &[u8]) {
    let mut texts = bytes.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    let environment =
        Environment { drv_path: texts.next(), out_paths: texts.next(), nix_config: texts.next() };
    let build = environment.build(DIR, |_| texts.next());
    for path in build.outputs.iter().chain(&build.deriver) {
        let text = path.as_str();
        assert!(StorePath::parse(DIR, text).is_ok() && !text.contains(['\n', ' ', '"']), "{text}");
    }
    assert!(build.outputs.is_sorted());
    // Each key that reaches the file of a job is one line and not a secret key, which is twice as long.
    for key in &build.trusted_keys {
        assert!(!key.contains(['\n', ' ']) && key.rsplit(':').next().is_some_and(|key| key.len() == 44));
    }
}
