//! Configuration files, which the hook and the uploader parse separately.

use std::cell::RefCell;
use std::fs;

use larder_hook::settings::Settings;
use tempfile::NamedTempFile;

use crate::config::Config;
use crate::config::config_keys::STORE_DIR;

thread_local! {
    static FILE: RefCell<NamedTempFile> = RefCell::new(NamedTempFile::new().expect("a temporary file"));
}

/// The hook accepts every configuration that the uploader accepts, and both find the same store and the same queue.
pub(super) fn configuration(bytes: &[u8]) {
    FILE.with_borrow(|file| {
        fs::write(file.path(), bytes).expect("writing a temporary file");
        let path = file.path().display().to_string();
        let variable = |name: &str| (name == "LARDER_CONFIG").then(|| path.clone());
        let Ok(config) = Config::load(&variable, &[]) else { return };
        let hook = Settings::read(&variable, rustix::process::geteuid().is_root());
        let hook = hook.expect("the hook accepts a configuration that the uploader accepts");
        assert_eq!(config.state_dir(), hook.state_dir);
        if let Some(store_dir) = config.get(STORE_DIR) {
            assert_eq!(store_dir.trim_end_matches('/'), hook.store_dir);
        }
        let _ = (config.bucket(), config.effective().count());
    });
}
