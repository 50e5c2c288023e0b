use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::*;
use crate::format::example::{A, B, info, path};
use crate::format::narinfo::{NarObject, compose};
use crate::format::object_keys::{self, Compression};

fn key(name: &str) -> SecretKey {
    SecretKey::generate(name).unwrap()
}

/// The narinfo of a path, signed by these keys.
fn narinfo(info: &PathInfo, keys: &[SecretKey]) -> Vec<u8> {
    let nar = NarObject {
        key: object_keys::new_nar(&info.nar_hash, Compression::Zstd, "0123456789"),
        compression: Compression::Zstd,
        file_hash: Some([4; 32]),
        file_size: Some(60),
    };
    compose(&StoreDir::default(), info, &nar, keys).unwrap()
}

/// Judges a narinfo of the path `a` with one key of ours and a key that clients trust besides.
struct Court {
    dir: StoreDir,
    ours: [SecretKey; 1],
    trusted: Vec<TrustedPublicKey>,
}

impl Court {
    fn new(ours: &SecretKey, friend: &SecretKey) -> Self {
        Self { dir: StoreDir::default(), ours: [ours.clone()], trusted: vec![ours.public(), friend.public()] }
    }

    fn judge(&self) -> Judge<'_> {
        Judge { store_dir: &self.dir, keys: &self.ours, trusted: &self.trusted }
    }

    fn of(&self, info: &PathInfo, bytes: &[u8]) -> Standing {
        self.judge().standing(info, bytes)
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_signature_is_added_and_nothing_else_changed() {
    let (ours, friend, stranger) = (key("ours-1"), key("friend-1"), key("stranger-1"));
    let court = Court::new(&ours, &friend);
    for (signer, before) in [(&friend, true), (&stranger, false)] {
        let bytes = narinfo(&info(&[B]), std::slice::from_ref(signer));
        let Standing::Same { accepted, rewritten: Some(rewritten), signers, nar } =
            court.of(&info(&[B]), &bytes)
        else {
            panic!("no signature is added")
        };
        assert_eq!((accepted, &*signers), (before, &[signer.name().to_owned()][..]));
        assert!(nar.fits(60) && !nar.fits(59) && !nar.fits(0));
        let lines = text(&rewritten).lines().filter(|line| !line.starts_with("Sig: ours-1"));
        let without: String = lines.map(|line| format!("{line}\n")).collect();
        assert_eq!(without, text(&bytes));
        let again = court.of(&info(&[B]), &rewritten);
        assert!(matches!(again, Standing::Same { accepted: true, rewritten: None, .. }), "{again:?}");
    }
}

#[test]
fn an_invalid_signature_of_ours_is_replaced() {
    let (ours, imposter) = (key("ours-1"), key("ours-1"));
    let court = Court::new(&ours, &key("friend-1"));
    let bytes = narinfo(&info(&[]), &[imposter]);
    let Standing::Same { accepted: false, rewritten: Some(rewritten), .. } = court.of(&info(&[]), &bytes)
    else {
        panic!("the signature is accepted")
    };
    assert_eq!(text(&rewritten).matches("Sig: ours-1").count(), 1);
}

#[test]
fn other_contents_are_usable_only_with_a_trusted_signature_and_are_never_signed() {
    let (ours, friend, stranger) = (key("ours-1"), key("friend-1"), key("stranger-1"));
    let court = Court::new(&ours, &friend);
    let mut other = info(&[A, B]);
    other.nar_hash = [9; 32];
    let found = court.of(&info(&[]), &narinfo(&other, std::slice::from_ref(&friend)));
    let Standing::Other { references, signer, .. } = found else { panic!("{found:?}") };
    assert_eq!((references, &*signer), (vec![path(B)], "friend-1"));
    for (keys, signers) in [(vec![], vec![]), (vec![stranger], vec!["stranger-1".to_owned()])] {
        let found = court.of(&info(&[]), &narinfo(&other, &keys));
        let Standing::Unusable(unusable) = found else { panic!("{found:?}") };
        assert_eq!(unusable.signers, signers);
    }
}

/// Changes of a narinfo that its signature does not cover, and what larder says of each.
#[test]
fn fields_that_no_signature_covers_are_judged() {
    let ours = key("ours-1");
    let court = Court::new(&ours, &key("friend-1"));
    let bytes = narinfo(&info(&[B]), std::slice::from_ref(&ours));
    let good = text(&bytes);
    let url = good.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
    let of_others = object_keys::new_nar(&[8; 32], Compression::Zstd, "0123456789");
    for (from, to, says) in [
        (url, "http://elsewhere/x.nar.zst", "not the key of a NAR in this bucket"),
        (url, "../x.nar.zst", "not the key"),
        (url, "nar/x.nar.xz", "its compression `zstd` is not that of"),
        (url, &of_others, "the NAR of other contents"),
        ("Compression: zstd", "Compression: xz", "its compression `xz` is not that of"),
        ("Compression: zstd", "Compression: none", "is not that of"),
        ("Compression: zstd", "Compression: magic", "Nix does not know"),
        ("Compression: zstd\n", "", "is not that of"),
        (
            "Sig: ",
            "CA: fixed:r:sha256:0zhkga32apid60mm7nh92z2970im5837x7dnvzq6hn0n1pwqcfvg\nSig: ",
            "content address",
        ),
        ("References: ", "References: /nix/store/", "malformed"),
        ("NarSize: ", "NarSize:", "malformed"),
        ("NarSize: ", "NarSize:  ", "malformed"),
        ("NarSize: 120", "NarSize: 0", "malformed"),
        ("NarSize: 120", "NarSize: 120\nNarSize: 120", "malformed"),
        ("NarSize: 120\n", "NarSize: 120\r\n", "malformed"),
        ("NarSize: 120\n", "NarSize: 120\n\n", "malformed"),
        (A, "9c5b8vw40dy178xlpddw65q9gf1h2186-a", "it describes `9c5b8vw40dy178xlpddw65q9gf1h2186-a`"),
        ("FileSize: 60", "FileSize: -1", "malformed"),
    ] {
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good, "{from}");
        let found = court.of(&info(&[B]), changed.as_bytes());
        let Standing::Unusable(unusable) = found else { panic!("{from} → {to}: {found:?}") };
        assert!(unusable.fault.contains(says), "{from} → {to}: {}", unusable.fault);
        assert_eq!(unusable.signers, ["ours-1"], "{from} → {to}");
        assert!(court.judge().alone(&path(A), changed.as_bytes()).is_err());
    }
    assert!(court.judge().alone(&path(A), good.as_bytes()).is_ok());
    let found = court.of(&info(&[B]), good.trim_end().as_bytes());
    assert!(
        matches!(&found, Standing::Unusable(unusable) if unusable.fault.contains("line feed")),
        "{found:?}"
    );
}

#[test]
fn a_malformed_signature_is_left_out_when_ours_is_added_and_makes_another_build_unusable() {
    let (ours, friend) = (key("ours-1"), key("friend-1"));
    let court = Court::new(&ours, &friend);
    for keys in [vec![], vec![ours]] {
        let bytes = [&*narinfo(&info(&[]), &keys), b"Sig: short-1:AAAA\n"].concat();
        let Standing::Same { accepted: false, rewritten: Some(rewritten), .. } = court.of(&info(&[]), &bytes)
        else {
            panic!("a client accepts it")
        };
        assert!(!text(&rewritten).contains("short-1"));
    }
    let mut other = info(&[]);
    other.nar_hash = [9; 32];
    let bytes = [&*narinfo(&other, &[friend]), b"Sig: short-1:AAAA\n"].concat();
    assert!(matches!(court.of(&info(&[]), &bytes), Standing::Unusable(_)));
}

#[test]
fn only_what_nobody_signed_may_be_replaced_unless_its_keys_are_adopted() {
    let court = Court::new(&key("ours-1"), &key("friend-1"));
    let signature = BASE64.encode([7; 64]);
    let signed = format!("rubbish\nSig: a-1:{signature}\nSig: b-1:{signature}\nSig: short-1:AAAA\nSig: x\n");
    for (bytes, signers) in [
        (&b""[..], vec![]),
        (b"\xff\xfe\0", vec![]),
        (b"Sig: ", vec![]),
        (signed.as_bytes(), vec!["a-1", "b-1"]),
    ] {
        let found = court.of(&info(&[]), bytes);
        let Standing::Unusable(unusable) = found else { panic!("{found:?}") };
        assert_eq!(unusable.signers, signers);
        let adopt = |names: &[&str]| {
            unusable.may_be_replaced(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(adopt(&[]), signers.is_empty());
        assert_eq!(adopt(&["a-1"]), signers.is_empty());
        assert!(adopt(&["a-1", "b-1"]));
    }
}

#[test]
fn a_reason_names_the_signers_and_the_way_out_without_control_characters() {
    let signers = ["a-1", "\u{1b}[2J", "c-1", "d-1"].map(str::to_owned).into();
    let reason = Unusable { fault: "it is malformed".into(), signers }.reason();
    assert!(
        reason.contains("`a-1`") && reason.contains("and 1 more") && reason.contains("--adopt a-1"),
        "{reason}"
    );
    assert!(!reason.contains('\u{1b}'));
}
