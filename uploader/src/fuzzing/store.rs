//! The replies of a Nix daemon.

use std::io::{Write, sink};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix_derivation::{StoreDir, StorePath};

use crate::store::{Daemon, DaemonAddress, StoreLocation};

/// The greatest number of bytes. More bytes do not fit into the buffer of the socket.
const MOST: usize = 100 << 10;

/// A conversation: the first byte chooses the operation, and the daemon sends the rest.
pub(super) fn daemon(bytes: &[u8]) {
    let Some((question, answer)) = bytes.split_first().filter(|(_, answer)| answer.len() <= MOST) else {
        return;
    };
    let (near, mut far) = UnixStream::pair().expect("a pair of sockets");
    far.write_all(answer).expect("writing to a socket");
    far.shutdown(Shutdown::Write).expect("closing a socket");
    let location = StoreLocation {
        store_dir: StoreDir::default(),
        real_dir: "/nix/store".into(),
        state_dir: "/nix/var/nix".into(),
        log_dir: "/nix/var/log/nix".into(),
        daemon: DaemonAddress::Socket("/socket".into()),
    };
    let Ok(mut daemon) = Daemon::over(near, &location, Some(Duration::from_secs(5))) else { return };
    let path = |name: &str| StorePath::from_parts([7; 20], name).expect("a store path");
    let paths = [path("a"), path("b")];
    let failed = match question % 8 {
        0 => daemon.path_infos(&paths).map(|infos| assert_eq!(infos.len(), paths.len())).is_err(),
        1 => daemon.valid_paths(&paths).is_err(),
        2 => daemon.all_valid_paths().is_err(),
        3 => daemon.find_roots().is_err(),
        4 => daemon.derivation_outputs(&path("a.drv")).is_err(),
        5 => daemon.realisation("sha256:00!out").is_err(),
        6 => daemon.nar_from_path(&paths[0], &mut sink()).is_err(),
        _ => daemon.add_temp_roots(&paths).is_err(),
    };
    assert_eq!(failed, daemon.is_broken(), "a connection is unusable exactly after an error");
}
