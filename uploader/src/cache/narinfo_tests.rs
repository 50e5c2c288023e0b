use nix_derivation::store_path::StorePath;

use super::*;

const A: &str = "0c5b8vw40dy178xlpddw65q9gf1h2186-a";
const B: &str = "1c5b8vw40dy178xlpddw65q9gf1h2186-b";

fn path(base: &str) -> StorePath {
    StorePath::from_basename(base.as_bytes()).unwrap()
}

fn info(references: &[&str]) -> PathInfo {
    PathInfo {
        path: path(A),
        deriver: Some(path("2c5b8vw40dy178xlpddw65q9gf1h2186-a.drv")),
        nar_hash: [3; 32],
        nar_size: 120,
        references: references.iter().map(|base| path(base)).collect(),
        registration_time: 0,
        ultimate: true,
        signatures: Vec::new(),
        ca: None,
    }
}

fn nar() -> NarObject {
    NarObject {
        key: "nar/x.nar.zst".into(),
        compression: Compression::Zstd,
        file_hash: Some([4; 32]),
        file_size: Some(60),
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn has_the_fields_and_order_of_nix() {
    let key = SecretKey::generate("k-1").unwrap();
    let bytes = compose(&StoreDir::default(), &info(&[A, B]), &nar(), std::slice::from_ref(&key)).unwrap();
    let names: Vec<_> = text(&bytes).lines().map(|line| line.split_once(": ").unwrap().0).collect();
    let expected = "StorePath URL Compression FileHash FileSize NarHash NarSize References Deriver Sig";
    assert_eq!(names.join(" "), expected);
    assert!(text(&bytes).ends_with('\n'));
    assert!(text(&bytes).contains(&format!("References: {A} {B}\n")));
}

#[test]
fn no_references_keep_their_blank() {
    let bytes = compose(&StoreDir::default(), &info(&[]), &nar(), &[]).unwrap();
    assert!(text(&bytes).contains("\nReferences: \n"));
}

#[test]
fn a_signature_is_added_and_nothing_else_changed() {
    let (ours, theirs) = (SecretKey::generate("ours-1").unwrap(), SecretKey::generate("theirs-1").unwrap());
    let dir = StoreDir::default();
    let standing_bytes = compose(&dir, &info(&[B]), &nar(), std::slice::from_ref(&theirs)).unwrap();
    let Standing::LacksSignatures(bytes) =
        standing(&dir, &info(&[B]), &standing_bytes, std::slice::from_ref(&ours)).unwrap()
    else {
        panic!("not found lacking")
    };
    let without_signature: String = text(&bytes)
        .lines()
        .filter(|line| !line.starts_with("Sig: ours-1"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(without_signature, text(&standing_bytes));
    assert_eq!(standing(&dir, &info(&[B]), &bytes, &[ours, theirs]).unwrap(), Standing::Complete);
}

#[test]
fn other_contents_are_never_signed() {
    let key = SecretKey::generate("k-1").unwrap();
    let dir = StoreDir::default();
    let bytes = compose(&dir, &info(&[B]), &nar(), &[]).unwrap();
    let mut other = info(&[B]);
    other.nar_hash = [9; 32];
    assert_eq!(standing(&dir, &other, &bytes, std::slice::from_ref(&key)).unwrap(), Standing::Differs);
    assert_eq!(standing(&dir, &info(&[]), &bytes, &[key]).unwrap(), Standing::Differs);
}

#[test]
fn a_malformed_narinfo_is_an_error_that_says_the_way_out() {
    for bytes in [&b""[..], b"StorePath: x\n", b"\xff\xfe"] {
        let error = standing(&StoreDir::default(), &info(&[]), bytes, &[]).unwrap_err();
        assert!(error.hint_text().is_some());
    }
}

#[test]
fn malformed_signatures_of_the_store_are_left_out() {
    let mut info = info(&[]);
    let good = SecretKey::generate("good-1").unwrap().sign("anything").to_nix_string();
    info.signatures = vec!["rubbish".into(), "k:!".into(), "short-1:AAAA".into(), good];
    let bytes = compose(&StoreDir::default(), &info, &nar(), &[]).unwrap();
    assert_eq!(text(&bytes).matches("Sig: ").count(), 1);
}
