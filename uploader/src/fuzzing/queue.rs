//! What the hook and the queue read.

use larder_hook::environment::Environment;
use larder_hook::queue::Job;
use larder_hook::{drv, store_path::StorePath};

const DIR: &str = "/nix/store";

/// A job's file: what is read is what was written.
pub(super) fn job(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(job) = Job::parse(DIR, &text) else { return };
    for path in job.paths.iter().chain(&job.deriver) {
        assert!(StorePath::parse(DIR, path.as_str()).is_ok());
    }
    let again = Job::parse(DIR, &job.to_text());
    assert_eq!(again.as_ref(), Ok(&job), "{}", job.to_text());
}

/// A derivation, for its outputs.
pub(super) fn derivation(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for (name, path) in drv::outputs(&text).unwrap_or_default() {
        assert!(name.len() + path.len() <= text.len());
    }
}

/// The environment of a hook: three texts, separated by zero bytes, and the derivation that `DRV_PATH` names.
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
    // What reaches the queue's file is one line each, and no secret: a secret key is twice as long.
    for key in &build.trusted_keys {
        assert!(!key.contains(['\n', ' ']) && key.rsplit(':').next().is_some_and(|key| key.len() == 44));
    }
}
