use nix_derivation::store_path::StorePath;

use super::*;
use crate::format::example::{A, B, info};

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
fn empty_references_keep_their_space() {
    let bytes = compose(&StoreDir::default(), &info(&[]), &nar(), &[]).unwrap();
    assert!(text(&bytes).contains("\nReferences: \n"));
}

#[test]
fn malformed_signatures_of_the_store_are_left_out() {
    let mut info = info(&[]);
    let good = SecretKey::generate("good-1").unwrap().sign("anything").unwrap().to_nix_string();
    info.signatures = ["rubbish".into(), "k:!".into(), "short-1:AAAA".into(), good].into();
    let bytes = compose(&StoreDir::default(), &info, &nar(), &[]).unwrap();
    assert_eq!(text(&bytes).matches("Sig: ").count(), 1);
}

/// Paths of many shapes, made from a fixed sequence of numbers.
fn assorted() -> impl Iterator<Item = (PathInfo, NarObject, Vec<SecretKey>)> {
    let mut state = 7_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let keys: Vec<_> = ["k", "cache.example.org-1", "a-very-long-name-of-a-cache.example.org-1"]
        .map(|name| SecretKey::generate(name).unwrap())
        .into();
    let cas = [
        None,
        Some("fixed:r:sha256:0zhkga32apid60mm7nh92z2970im5837x7dnvzq6hn0n1pwqcfvg"),
        Some("text:sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s"),
    ];
    (0..2000).map(move |_| {
        let named = |number: u64| {
            let name = "n".repeat(number as usize % 60 + 1);
            StorePath::from_parts([number as u8; 20], &name).unwrap()
        };
        let mut info = info(&[]);
        info.path = named(random(1000)).into();
        info.deriver = (random(2) == 0).then(|| named(random(1000)));
        info.nar_size = 1 + (1 << random(50)) + random(1000);
        info.references = (0..random(12)).map(|_| named(random(1000))).collect();
        info.ca = cas[random(3) as usize].map(str::to_owned);
        let twice = random(2) as usize;
        let signers = keys.iter().filter(|_| random(2) == 0).chain(&keys[..twice]);
        info.signatures =
            signers.map(|key| key.sign("x").unwrap().to_nix_string()).chain(["rubbish".into()]).collect();
        let ours = keys.iter().filter(|_| random(2) == 0).cloned().collect();
        let compression = Compression::ALL[random(3) as usize];
        let nar = NarObject {
            key: object_keys::new_nar(&info.nar_hash, compression, &object_keys::new_writer()),
            compression,
            file_hash: (random(2) == 0).then_some([4; 32]),
            file_size: Some(1 + random(info.nar_size + 500)),
        };
        (info, nar, ours)
    })
}

#[test]
fn a_composed_narinfo_has_a_possible_size() {
    for (info, nar, keys) in assorted() {
        let bytes = compose(&StoreDir::default(), &info, &nar, &keys).unwrap();
        assert!(fits(&StoreDir::default(), &info, &keys, bytes.len() as u64), "{}", text(&bytes));
    }
}

#[test]
fn a_narinfo_without_a_signature_of_ours_never_has_a_possible_size() {
    for (mut info, nar, keys) in assorted().filter(|(_, _, keys)| !keys.is_empty()) {
        // `compose` replaces the signatures of our own keys in the store.
        info.signatures = Box::default();
        for lacking in 0..keys.len() {
            let bytes = compose(&StoreDir::default(), &info, &nar, &keys[..lacking]).unwrap();
            assert!(!fits(&StoreDir::default(), &info, &keys, bytes.len() as u64), "{}", text(&bytes));
        }
    }
}

#[test]
fn a_narinfo_of_nix_copy_without_our_signature_never_has_a_possible_size() {
    let key = SecretKey::generate("cache.example.org-1").unwrap();
    for (mut info, mut nar, _) in assorted() {
        info.signatures = Box::default();
        nar.key = format!("nar/{}.nar.xz", "x".repeat(52));
        nar.compression = Compression::Xz;
        nar.file_hash = Some([4; 32]);
        let bytes = compose(&StoreDir::default(), &info, &nar, &[]).unwrap();
        assert!(!fits(&StoreDir::default(), &info, std::slice::from_ref(&key), bytes.len() as u64));
    }
}
