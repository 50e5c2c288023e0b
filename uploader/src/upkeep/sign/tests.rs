use std::collections::BTreeMap;

use nix_derivation::store_path::StoreDir;

use super::*;
use crate::bucket::Bucket;
use crate::format::signature::SecretKey;
use crate::upkeep::house::{self, House};

/// What became of each path by name, in one word.
async fn sign(
    house: &House,
    keys: &[SecretKey],
    trusted: &[&SecretKey],
    drop: &[&str],
    dry_run: bool,
) -> BTreeMap<String, String> {
    let trusted: Vec<_> = trusted.iter().map(|key| key.public()).collect();
    let drop: Vec<_> = drop.iter().map(|name| (*name).to_owned()).collect();
    let dir = StoreDir::default();
    let session = Session::open(house.shared(), dir.as_str(), keys, &trusted).await.unwrap();
    let resigning = Resigning { store_dir: &dir, keys, trusted: &trusted, drop: &drop };
    let signer = Signer { session: &session, resigning, dry_run };
    let catalog = house.catalog().await;
    let mut found = BTreeMap::new();
    signer
        .sign(&catalog, signer.wanting(&catalog), |id, signed| {
            let word = match signed {
                Signed::Done { added, dropped } => format!("+{} -{}", added.len(), dropped.len()),
                Signed::Left(reason) => reason,
                Signed::Gone => "gone".into(),
                Signed::Failed(error) => error.to_string(),
            };
            found.insert(catalog.name(id).unwrap_or("?").to_owned(), word);
        })
        .await;
    session.close().await;
    found
}

async fn signers(house: &House, name: &str) -> Vec<String> {
    let catalog = house.catalog().await;
    catalog.signers(house::id(&catalog, name)).to_vec()
}

fn words(words: &[(&str, &str)]) -> BTreeMap<String, String> {
    words.iter().map(|(name, word)| ((*name).to_owned(), (*word).to_owned())).collect()
}

#[tokio::test]
async fn a_key_is_replaced_and_a_second_run_has_nothing_to_do() {
    let house = House::new().await;
    let (old, new, stranger) =
        (&house.key, SecretKey::generate("new-1").unwrap(), SecretKey::generate("stranger-1").unwrap());
    for name in ["a", "b"] {
        house.publish(name, &[]).await;
    }
    house.publish_signed("strange", &[], &[stranger]).await;
    let keys = [new.clone()];
    let untrusted = ("strange", "no trusted key signed it");
    let dry = sign(&house, &keys, &[old, &new], &[], true).await;
    assert_eq!(dry, words(&[("a", "+1 -0"), ("b", "+1 -0"), untrusted]));
    assert_eq!(signers(&house, "a").await, ["house-1"]);
    let both = sign(&house, &keys, &[old, &new], &[], false).await;
    assert_eq!(both, dry);
    assert_eq!(signers(&house, "a").await, ["house-1", "new-1"]);
    assert_eq!(sign(&house, &keys, &[old, &new], &[], false).await, words(&[untrusted]));
    let dropped = sign(&house, &keys, &[old, &new], &["house-1"], false).await;
    assert_eq!(dropped, words(&[("a", "+0 -1"), ("b", "+0 -1"), untrusted]));
    assert_eq!(signers(&house, "b").await, ["new-1"]);
}

#[tokio::test]
async fn a_path_whose_nar_is_missing_is_not_signed_and_a_removed_one_is_not_written_again() {
    let house = House::new().await;
    let new = SecretKey::generate("new-1").unwrap();
    let nar = house.publish("broken", &[]).await;
    house.delete(&nar).await;
    house.publish("removed", &[]).await;
    let catalog = house.catalog().await;
    let (dir, trusted) = (StoreDir::default(), [house.key.public(), new.public()]);
    let keys = [new];
    let session = Session::open(house.shared(), dir.as_str(), &keys, &trusted).await.unwrap();
    let resigning = Resigning { store_dir: &dir, keys: &keys, trusted: &trusted, drop: &[] };
    let signer = Signer { session: &session, resigning, dry_run: false };
    house.delete(&house::narinfo("removed")).await;
    let mut found = Vec::new();
    signer
        .sign(&catalog, signer.wanting(&catalog), |id, signed| {
            found.push((catalog.name(id).unwrap().to_owned(), signed))
        })
        .await;
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    assert!(
        matches!(&found[0].1, Signed::Left(reason) if reason.contains("is not in the bucket")),
        "{found:?}"
    );
    assert!(matches!(found[1].1, Signed::Gone), "{found:?}");
    assert!(house.bucket.get(&house::narinfo("removed")).await.unwrap().is_none());
}
