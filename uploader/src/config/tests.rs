use larder_hook::settings::Settings;

use super::config_keys::{EXCLUDE, JOBS, KEEP_WITHIN, MAX_NAR_SIZE, MAX_SIZE, ROWS};
use super::*;
use crate::base::error::{Area, Result};

fn load(file: &str, variables: &[(&str, &str)], flags: &[Flag<'_>]) -> Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, file).unwrap();
    let lookup = |name: &str| {
        if name == "LARDER_CONFIG" {
            return Some(path.display().to_string());
        }
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    Config::load(&lookup, flags)
}

#[test]
fn flag_wins_over_environment_over_file() {
    let file = "bucket = 's3://file'\njobs = 3\nexclude = ['a', 'b']\nmax-nar-size = '2 GiB'\n";
    let config = load(file, &[("LARDER_BUCKET", "s3://env")], &[Flag::set("jobs", "5")]).unwrap();
    assert_eq!(config.bucket().unwrap(), "s3://env");
    assert_eq!(config.get(JOBS), Some(5));
    assert_eq!(config.get(MAX_NAR_SIZE), Some(Size(2 << 30)));
    assert_eq!(config.get(EXCLUDE), ["a", "b"]);
    let source = |name: &str| config.effective().find(|(row, ..)| row.name == name).unwrap().2.to_string();
    assert_eq!(source("bucket"), "LARDER_BUCKET");
    assert_eq!(source("jobs"), "--set jobs");
    assert_eq!(source("compression"), "default");
}

#[test]
fn lengths_of_time_have_units() {
    let config = load("keep-within = '90d'\nmax-size = '500 GiB'\npin-keep-last = 5\n", &[], &[]).unwrap();
    assert_eq!(config.get(KEEP_WITHIN), Some(std::time::Duration::from_secs(90 * 86_400)));
    assert_eq!(config.get(MAX_SIZE), Some(Size(500 << 30)));
    let shown = config.effective().find(|(row, ..)| row.name == "keep-within").unwrap().1.unwrap();
    assert_eq!(shown.to_string(), "\"90d\"");
    let config = load("", &[("LARDER_KEEP_WITHIN", "36h")], &[]).unwrap();
    assert_eq!(config.get(KEEP_WITHIN), Some(std::time::Duration::from_secs(36 * 3600)));
    for file in ["keep-within = 90", "keep-within = '90'", "keep-within = '-1d'", "pin-keep-last = 0"] {
        assert!(load(file, &[], &[]).unwrap_err().hint_text().is_some(), "{file}");
    }
}

#[test]
fn an_unknown_key_names_the_nearest() {
    for (typo, meant) in
        [("buckt", "bucket"), ("signing_key_files", "signing-key-files"), ("compresion", "compression")]
    {
        let error = load(&format!("{typo} = 'x'"), &[], &[]).unwrap_err();
        assert!(error.hint_text().unwrap().contains(meant), "{typo}: {error} {:?}", error.hint_text());
        assert_eq!(error.area(), Area::Config);
    }
}

#[test]
fn errors_about_values_show_an_example() {
    for file in
        ["jobs = 'many'", "bucket = 3", "exclude = 'x'", "push-upstream = 'yes'", "jobs = -1", "jobs = 0"]
    {
        let error = load(file, &[], &[]).unwrap_err();
        assert!(error.hint_text().is_some(), "{file}");
    }
    assert!(load("compression = 'brotli'", &[], &[]).is_err());
    assert!(load("compression = 'xz'\ncompression-level = 12", &[], &[]).is_err());
    assert!(load("bucket = ", &[], &[]).is_err());
}

#[test]
fn errors_about_values_name_the_place_as_the_user_gave_it() {
    let many = |flags: &[Flag<'_>]| load("", &[], flags).unwrap_err().to_string();
    assert!(many(&[Flag::set("jobs", "many")]).contains("`--set jobs`"));
    assert!(many(&[Flag::set("jbos", "4")]).contains("`--set jbos`"));
    assert!(many(&[Flag::set("compression", "best")]).contains("`--set compression`"));
    let variable = load("", &[("LARDER_JOBS", "many")], &[]).unwrap_err();
    assert!(variable.to_string().contains("`LARDER_JOBS`"), "{variable}");
    assert_eq!(variable.hint_text(), Some("the value is a whole number, for example `4`"));
    assert!(load("priority = 5000000000", &[], &[]).unwrap_err().to_string().contains("too high"));
    assert!(load("compression-level = 5000000000", &[], &[]).unwrap_err().to_string().contains("too high"));
}

#[test]
fn a_relative_directory_of_the_queue_is_taken_from_a_flag_only() {
    let given = load("", &[], &[Flag::set("state-dir", "queue")]).unwrap().state_dir();
    assert_eq!(given, std::env::current_dir().unwrap().join("queue"));
    for result in [load("state-dir = 'queue'", &[], &[]), load("", &[("LARDER_STATE_DIR", "queue")], &[])] {
        assert!(result.unwrap_err().to_string().contains("is relative"));
    }
}

#[test]
fn every_default_is_of_its_kind() {
    for row in ROWS {
        assert_eq!(row.default().is_some(), matches!(row.default, KeyDefault::Value(_)), "{}", row.name);
    }
}

#[test]
fn the_table_has_each_key_once_and_marks_the_keys_of_the_hook() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let variable = |name: &str| (name == "LARDER_CONFIG").then(|| file.display().to_string());
    for (index, row) in ROWS.iter().enumerate() {
        assert!(ROWS[..index].iter().all(|before| before.name != row.name), "{}", row.name);
        // No key takes a date: the hook refuses the value if it reads the key.
        std::fs::write(&file, format!("{} = 1979-05-27", row.name)).unwrap();
        assert_eq!(Settings::read(&variable, true).is_err(), row.hook, "{}", row.name);
    }
}
