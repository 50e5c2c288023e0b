//! The requirements of tests, and what happens when this machine lacks one.
//!
//! A missing requirement skips the test: a line on stderr, and one in the file `$LARDER_TEST_SKIPS` where that is set,
//! so that a run can list at its end the tests that were skipped. With `LARDER_TESTS_REQUIRE=1` a missing requirement that
//! every run must have fails the test instead.

use crate::cache;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;

/// A requirement of a test, which `tests/provision` installs in most cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Debian 12's Nix, 2.8.
    Nix28,
    /// Nix 2.26 from Debian trixie.
    Nix226,
    /// Nix 2.34 from Debian sid.
    Nix234,
    /// The unpacked packages of the realistic store.
    Packages,
    /// SeaweedFS.
    SeaweedFs,
    /// MinIO.
    MinIo,
    /// The library that gives a program a wrong clock.
    FakeTime,
    /// Garage (by flag).
    Garage,
    /// Ceph's radosgw and its daemons (by flag).
    Ceph,
    /// cargo-cyclonedx, which writes bills of materials.
    CycloneDx,
    /// larder with fail points.
    FaultyBuild,
    /// The units and the configuration of Debian's nix-daemon, unpacked.
    NixSetup,
    /// Being root.
    Root,
}

impl Requirement {
    /// The path of the program, or the directory for [`Requirement::Packages`].
    pub fn find(self) -> Option<PathBuf> {
        let program = |p: PathBuf| Some(p).filter(|p| cache::is_executable(p));
        match self {
            Self::Nix28 => program("/usr/bin/nix-store".into()),
            Self::Nix226 => cache::file("nix-trixie/ok")
                .and_then(|_| program(cache::dir().join("nix-trixie/bin/nix-store"))),
            Self::Nix234 => {
                cache::file("nix-sid/ok").and_then(|_| program(cache::dir().join("nix-sid/bin/nix-store")))
            }
            Self::Packages => cache::file("packages/list").map(|_| cache::dir().join("packages")),
            Self::SeaweedFs => program(cache::dir().join("seaweedfs/weed")),
            Self::MinIo => program(cache::dir().join("minio/minio")),
            Self::FakeTime => cache::file("faketime/libfaketimeMT.so.1"),
            Self::Garage => program(cache::dir().join("garage/bin/garage")),
            Self::Ceph => ["ceph-mon", "ceph-osd", "ceph-mgr", "ceph", "radosgw-admin"]
                .iter()
                .all(|p| cache::program(p).is_some())
                .then(|| cache::program("radosgw"))?,
            Self::CycloneDx => program(cache::dir().join("cyclonedx/bin/cargo-cyclonedx")),
            Self::FaultyBuild => crate::larder::faulty_binary("larder").ok(),
            Self::NixSetup => {
                cache::file("nix-setup/etc/nix/nix.conf").map(|_| cache::dir().join("nix-setup"))
            }
            Self::Root => rustix::process::geteuid().is_root().then(|| "/".into()),
        }
    }

    /// The argument of `tests/provision` that installs it.
    pub fn item(self) -> &'static str {
        match self {
            Self::Nix28 | Self::NixSetup => "nix",
            Self::Nix226 | Self::Nix234 => "nix-new",
            Self::Packages => "store",
            Self::SeaweedFs => "seaweedfs",
            Self::MinIo => "minio",
            Self::FakeTime => "faketime",
            Self::Garage => "garage",
            Self::Ceph => "ceph",
            Self::CycloneDx => "cyclonedx",
            Self::Root | Self::FaultyBuild => "",
        }
    }

    /// Whether a complete run must have it.
    pub fn is_must(self) -> bool {
        !matches!(self, Self::Garage | Self::Ceph | Self::Root)
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => write!(f, "needs root"),
            Self::FaultyBuild => {
                write!(f, "no build of larder with fail points is here (`tests/faults --build` makes one)")
            }
            _ => write!(f, "{self:?} is not here (`tests/provision {}` brings it)", self.item()),
        }
    }
}

/// Returns the path of a requirement, or notes that the running test is skipped.
///
/// # Panics
/// With `LARDER_TESTS_REQUIRE=1`, when something is missing that every run must have.
pub fn need(requirement: Requirement) -> Option<PathBuf> {
    let found = requirement.find();
    if found.is_none() {
        assert!(!(is_complete() && requirement.is_must()), "{requirement}, and LARDER_TESTS_REQUIRE is set");
        skip(&requirement.to_string());
    }
    found
}

/// Whether this run must be complete: `LARDER_TESTS_REQUIRE=1`.
fn is_complete() -> bool {
    std::env::var("LARDER_TESTS_REQUIRE").is_ok_and(|value| value == "1")
}

/// Passes on what a mandatory test needs and has found. A missing thing is noted as skipped already.
///
/// # Panics
/// With `LARDER_TESTS_REQUIRE=1`, when it is missing.
pub fn must<T>(found: Option<T>) -> Option<T> {
    assert!(found.is_some() || !is_complete(), "this test is mandatory, and LARDER_TESTS_REQUIRE is set");
    found
}

/// Notes that the running test, or a part of it, is skipped.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {reason}", thread.name().unwrap_or("?"));
    eprintln!("{line}");
    if let Some(file) = std::env::var_os("LARDER_TEST_SKIPS")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(file)
    {
        // One write, so that lines of several tests do not mix.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}
