//! The ways to mend each path, without I/O: the bucket's own NARs come first, then the local store, then other caches.

use super::examine::{Examined, State};

/// A way to mend a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Another object in the bucket holds the NAR: the narinfo is changed to name it.
    NarInBucket(String),
    /// The local store has the NAR: it is sent again, and the narinfo is changed to name the new object.
    NarInStore,
    /// The source with this number has the NAR. The same follows.
    NarElsewhere(usize),
    /// The local store has the path: it is pushed by the rules of a push.
    Push,
    /// The source with this number has the path, signed by a trusted key.
    Fetch(usize),
}

/// A path, and the ways to mend it in the order in which they are tried.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The path.
    pub examined: Examined,
    /// The ways; none if the path cannot be mended.
    pub ways: Vec<Way>,
    /// Why there is no other way, for people.
    pub reason: String,
}

/// Decides how each path is mended. A narinfo that no client can use is replaced if all its signatures are of the keys
/// `adopt`.
pub fn decide(examined: Examined, adopt: &[String]) -> Plan {
    let mut ways = Vec::new();
    let (signers, mut reason) = match &examined.state {
        State::Vouched(claim) => {
            let same =
                |hash: &[u8; 32], size: u64| (*hash, size) == (claim.info.nar_hash, claim.info.nar_size);
            let candidates = examined.candidates.iter();
            ways.extend(candidates.map(|candidate| Way::NarInBucket(candidate.key.clone())));
            let in_store = examined.in_store.iter().filter(|info| same(&info.nar_hash, info.nar_size));
            ways.extend(in_store.map(|_| Way::NarInStore));
            // The hash is vouched for here, so that any source of the bytes is good.
            let elsewhere = examined.elsewhere.iter();
            let elsewhere = elsewhere.filter(|(_, other)| same(&other.info.nar_hash, other.info.nar_size));
            ways.extend(elsewhere.map(|(number, _)| Way::NarElsewhere(*number)));
            (
                &claim.signers[..],
                "neither the bucket, the local store nor another cache has its NAR".to_owned(),
            )
        }
        State::Unusable { signers, .. } => {
            (&signers[..], "neither the local store nor another cache has the path".to_owned())
        }
        State::Absent => (&[][..], "neither the local store nor another cache has the path".to_owned()),
    };
    match signers.iter().find(|signer| !adopt.contains(signer)) {
        Some(signer) if !matches!(examined.state, State::Vouched(_)) => {
            reason =
                format!("`{0}` has signed its narinfo; `--adopt {0}` replaces it", signer.escape_debug());
        }
        // What others vouch for keeps its contents.
        Some(_) => {}
        None => {
            ways.extend(examined.in_store.iter().map(|_| Way::Push));
            let vouched = examined.elsewhere.iter().filter(|(_, claim)| claim.is_vouched);
            ways.extend(vouched.map(|(number, _)| Way::Fetch(*number)));
            if ways.is_empty() && !examined.elsewhere.is_empty() {
                reason = "no trusted key has signed what other caches have".to_owned();
            }
        }
    }
    if !examined.unanswered.is_empty() {
        reason = format!("{reason}; {}", examined.unanswered.join("; "));
    }
    // A push may add our signatures to a narinfo that another key has signed, if it is that of the store.
    if ways.is_empty() && is_same_in_store(&examined) {
        ways.push(Way::Push);
    }
    Plan { examined, ways, reason }
}

/// Whether only a trusted signature is missing: the narinfo may be that of the path in the local store.
fn is_same_in_store(examined: &Examined) -> bool {
    use crate::format::summary::FaultKind;
    use crate::upkeep::verify::Kind;
    examined.in_store.is_some()
        && matches!(
            examined.patient.kind,
            Kind::Narinfo(FaultKind::Untrusted | FaultKind::MalformedSignature)
        )
}
