//! Users of this machine.

use larder_hook::queue::Owner;

use crate::base::error::{Area, Error, Result};

const PASSWD: &str = "/etc/passwd";

/// Whether /etc/passwd has a user of this name.
pub(super) fn has_user(name: &str) -> bool {
    let users = std::fs::read_to_string(PASSWD).unwrap_or_default();
    users.lines().any(|line| line.split(':').next() == Some(name))
}

/// The ids of a user. `name` is a user in /etc/passwd, or the numbers `UID:GID`.
///
/// Fails if /etc/passwd has no such user.
pub fn look_up_user(name: &str) -> Result<Owner> {
    if let Some((uid, gid)) = name.split_once(':')
        && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
    {
        return Ok(Owner { uid, gid });
    }
    let users = std::fs::read_to_string(PASSWD).unwrap_or_default();
    users.lines().find_map(|line| entry(line, name)).ok_or_else(|| {
        Error::permanent(Area::Usage, format!("there is no user `{name}` in {PASSWD}"))
            .hint("give the ids of the user as UID:GID")
    })
}

/// The ids in a line of /etc/passwd, if the line is about the user `name`.
fn entry(line: &str, name: &str) -> Option<Owner> {
    let fields: Vec<_> = line.split(':').collect();
    let [user, _, uid, gid, ..] = fields[..] else { return None };
    if user != name {
        return None;
    }
    Some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}
