//! Copies between buckets in memory, with real narinfos and NARs.

use std::collections::BTreeMap;
use std::sync::Arc;

use globset::GlobSet;
use nix_derivation::StoreDir;

use super::*;
use crate::base::clock::Moment;
use crate::bucket::Depth;
use crate::format::build_logs::BuildLogs;
use crate::format::collection::{COLLECTIONS, List, Part, TOMBSTONES, piece};
use crate::format::object_keys::{self, Compression};
use crate::format::realisation::{Named, Realisation};
use crate::format::repointing::Claim;
use crate::format::signature::SecretKey;
use crate::http::PublicReader;
use crate::http::scripted::{Scripted, reply};
use crate::push::decide::Rules;
use crate::push::progress::Silent;
use crate::push::send::compress::{Level, Settings};
use crate::push::{LogOptions, Options, PinRules, Pusher};
use crate::store::{DaemonAddress, StoreLocation};
use crate::upkeep::house::{House, narinfo, path};
use crate::upkeep::inventory;
use crate::upkeep::repair::Source;

/// Another cache, and a bucket that trusts its key.
struct Ground {
    theirs: House,
    ours: House,
    upstream_key: SecretKey,
    upstream_urls: Vec<String>,
}

/// What a copy has done.
#[derive(Debug, Default)]
struct Done {
    /// The words of the outcomes, by name. Each path has one.
    words: BTreeMap<String, Vec<&'static str>>,
    left: Vec<String>,
    present: usize,
    logs: usize,
}

impl Ground {
    async fn new() -> Self {
        let theirs = House { key: SecretKey::generate("theirs-1").unwrap(), ..House::new().await };
        let upstream_key = SecretKey::generate("upstream-1").unwrap();
        Self { theirs, ours: House::new().await, upstream_key, upstream_urls: Vec::new() }
    }

    async fn pusher(&self) -> Pusher {
        let options = Options {
            compression: Settings { compression: Compression::Zstd, level: Level::Fixed(1), threads: 1 },
            jobs: 1,
            listings: false,
            logs: LogOptions { which: BuildLogs::Successful, most: 5 << 20 },
            rules: Rules {
                upstream_keys: vec![self.upstream_key.public()],
                push_upstream: false,
                trusted_keys: vec![self.theirs.key.public()],
                trust_unsigned: false,
                closure_trust: true,
                exclude: GlobSet::empty(),
                max_nar_size: None,
            },
            adopt: Vec::new(),
            trust_bucket: false,
            pins: PinRules::default(),
        };
        let store = Arc::new(StoreLocation {
            store_dir: StoreDir::default(),
            real_dir: "/nonexistent".into(),
            state_dir: "/nonexistent".into(),
            log_dir: "/nonexistent".into(),
            daemon: DaemonAddress::Socket("/nonexistent/socket".into()),
        });
        Pusher::open(self.ours.shared(), store, vec![self.ours.key.clone()], options).await.unwrap()
    }

    async fn copy(&self, names: &[&str], carry: Carry) -> Done {
        let pusher = self.pusher().await;
        let source = Source::Bucket(self.theirs.shared());
        let options = inventory::Options {
            store_dir: StoreDir::default(),
            trusted: pusher.rules().upstream_keys.clone(),
        };
        let reader = Arc::new(PublicReader::new(None).unwrap());
        let upstream = Upstream { reader, urls: self.upstream_urls.clone(), options };
        let surveyor = Surveyor { pusher: &pusher, source: &source, upstream: &upstream, keep: true };
        let roots = names.iter().map(|name| *path(name).digest()).collect();
        let decided = order(surveyor.ask(roots, &|_| {}).await.unwrap());
        let since = Moment::now();
        let left = decided.left.values().cloned().collect();
        let mut done = Done { left, present: decided.present, ..Done::default() };
        let drop = [self.theirs.key.name().to_owned()];
        let progress = Arc::new(Silent);
        let carrier = Carrier { pusher: &pusher, source: &source, carry, drop: &drop, progress };
        carrier
            .carry(&decided, |info, outcome| {
                let words = done.words.entry(info.path.name().to_string()).or_default();
                words.push(outcome.kind().word());
            })
            .await;
        let there: Vec<_> = done.words.iter().filter(|(_, words)| words == &&["pushed"]).collect();
        let there: Vec<_> = there.into_iter().map(|(name, _)| *path(name).digest()).collect();
        carrier.carry_realisations(&|path| there.contains(path), since).await.unwrap();
        let with_log = done.words.iter().filter(|(_, words)| words == &&["pushed"]);
        let with_log = with_log.map(|(name, _)| (path(&format!("{name}.drv")), path(name))).collect();
        done.logs = carrier.carry_logs(&with_log, since).await;
        for name in names {
            let is_there = done.words.get(*name).is_some_and(|words| words == &["pushed"]);
            assert_eq!(pusher.session().facts().is_known(&path(name)), is_there, "{name}");
        }
        pusher.close().await;
        done
    }

    async fn has(&self, name: &str) -> bool {
        self.ours.shared().head(&narinfo(name)).await.unwrap().is_some()
    }
}

#[tokio::test]
async fn paths_are_copied_with_what_they_refer_to_and_get_our_signature() {
    for carry in [Carry::Through, Carry::Within] {
        let ground = Ground::new().await;
        ground.theirs.publish("base", &[]).await;
        ground.theirs.publish("top", &["base"]).await;
        let done = ground.copy(&["top"], carry).await;
        assert_eq!(done.words["base"], ["pushed"]);
        assert_eq!(done.words["top"], ["pushed"]);
        let text = String::from_utf8(ground.ours.bucket_bytes(&narinfo("top")).await).unwrap();
        assert!(text.contains("Sig: house-1:") && !text.contains("theirs-1"), "{text}");
        assert!(text.contains("URL: nar/"), "{text}");
        let again = ground.copy(&["other"], carry).await;
        assert!(again.words.is_empty() && again.left.len() == 1, "{again:?}");
    }
}

#[tokio::test]
async fn what_the_other_cache_lacks_may_be_in_the_bucket() {
    let ground = Ground::new().await;
    ground.theirs.publish("top", &["base"]).await;
    ground.ours.publish("base", &[]).await;
    let done = ground.copy(&["top"], Carry::Through).await;
    assert_eq!((done.left.len(), done.present), (0, 1), "{done:?}");
    assert_eq!(done.words["top"], ["pushed"]);
}

#[tokio::test]
async fn what_the_other_cache_lacks_may_be_upstreams() {
    let mut ground = Ground::new().await;
    ground.theirs.publish("top", &["glibc"]).await;
    let upstream = House { key: ground.upstream_key.clone(), ..House::new().await };
    upstream.publish("glibc", &[]).await;
    let narinfo = String::from_utf8(upstream.bucket_bytes(&narinfo("glibc")).await).unwrap();
    let server = Scripted::start(vec![reply("404 Not Found", "", ""), reply("200 OK", "", &narinfo)]).await;
    ground.upstream_urls = vec![format!("http://127.0.0.1:{}", server.port)];
    let done = ground.copy(&["top"], Carry::Within).await;
    assert!(
        done.words.is_empty() && done.left.iter().any(|why| why.contains("upstream lack it")),
        "{done:?}"
    );
    assert!(!ground.has("top").await);
    let done = ground.copy(&["top"], Carry::Within).await;
    assert_eq!(done.words["top"], ["pushed"]);
    assert!(!ground.has("glibc").await);
}

#[tokio::test]
async fn what_nobody_has_holds_back_all_that_refers_to_it() {
    let ground = Ground::new().await;
    ground.theirs.publish("middle", &["gone"]).await;
    ground.theirs.publish("top", &["middle"]).await;
    ground.theirs.publish("alone", &[]).await;
    let done = ground.copy(&["top", "alone"], Carry::Through).await;
    assert_eq!(done.left.len(), 3, "{done:?}");
    assert!(done.left.iter().any(|why| why.contains("the bucket lacks it, too")), "{done:?}");
    assert!(!ground.has("top").await && ground.has("alone").await);
    // The bucket has the path, but not what it refers to.
    let ground = Ground::new().await;
    ground.theirs.publish("middle", &["gone"]).await;
    ground.theirs.publish("top", &["middle"]).await;
    ground.ours.publish("middle", &["gone"]).await;
    let done = ground.copy(&["top"], Carry::Through).await;
    assert!(done.words.is_empty() && done.left.len() == 2, "{done:?}");
}

#[tokio::test]
async fn what_nobody_trusted_has_signed_stays_unless_the_bucket_has_it() {
    let ground = Ground::new().await;
    let stranger = SecretKey::generate("stranger-1").unwrap();
    ground.theirs.publish_signed("base", &[], std::slice::from_ref(&stranger)).await;
    ground.theirs.publish("top", &["base"]).await;
    let done = ground.copy(&["top"], Carry::Through).await;
    assert!(done.words.is_empty() && done.left.len() == 2, "{done:?}");
    ground.ours.publish("base", &[]).await;
    let done = ground.copy(&["top"], Carry::Through).await;
    assert_eq!(done.words["top"], ["pushed"]);
}

#[tokio::test]
async fn a_changed_nar_blocks_its_referrers_and_each_path_has_one_outcome() {
    let ground = Ground::new().await;
    let nar = ground.theirs.publish("base", &[]).await;
    for name in ["a", "b", "c", "d"] {
        ground.theirs.publish(name, &["base"]).await;
    }
    ground.theirs.put(&nar, zstd::encode_all(&b"something else"[..], 1).unwrap()).await;
    let done = ground.copy(&["a", "b", "c", "d"], Carry::Through).await;
    assert_eq!(done.words["base"], ["failed"]);
    for name in ["a", "b", "c", "d"] {
        assert_eq!(done.words[name], ["blocked"], "{name}");
        assert!(!ground.has(name).await);
    }
}

#[tokio::test]
async fn what_was_removed_for_good_does_not_come_back() {
    let ground = Ground::new().await;
    ground.theirs.publish("leak", &[]).await;
    let hash = nix_derivation::nixbase32::encode(path("leak").digest());
    ground.ours.put(&format!("{TOMBSTONES}{hash}.json"), "{}").await;
    let done = ground.copy(&["leak"], Carry::Through).await;
    assert!(done.words.is_empty() && done.left[0].contains("--purge"), "{done:?}");
    assert!(!ground.has("leak").await);
}

#[tokio::test]
async fn what_a_copy_relies_on_is_kept_from_a_collection() {
    let ground = Ground::new().await;
    ground.theirs.publish("top", &["base"]).await;
    ground.ours.publish("base", &[]).await;
    let list = List { levels: vec![vec![*path("base").digest()]], ..List::default() };
    let (header, pieces) = list.encode(false);
    let key = Part::Condemned.key(&object_keys::new_writer());
    ground.ours.put(&piece(&key, 0), pieces[0].clone()).await;
    ground.ours.put(&key, header).await;
    let done = ground.copy(&["top"], Carry::Through).await;
    assert_eq!(done.words["top"], ["pushed"]);
    let page = ground.ours.shared().list(COLLECTIONS, None, Depth::Flat).await.unwrap();
    let mut keys = page.objects.iter().map(|object| &object.key);
    assert!(keys.any(|key| matches!(Part::parse(key), Some((_, Part::Rescue(_))))), "{page:?}");
}

#[tokio::test]
async fn narinfos_that_a_source_swaps_are_not_taken() {
    let ground = Ground::new().await;
    ground.theirs.publish("one", &[]).await;
    let other = ground.theirs.bucket_bytes(&narinfo("one")).await;
    ground.theirs.put(&narinfo("two"), other.clone()).await;
    assert!(Claim::read(&StoreDir::default(), &[], path("two").digest(), &other).is_err());
    let done = ground.copy(&["two"], Carry::Through).await;
    assert!(done.words.is_empty() && done.left.len() == 1, "{done:?}");
}

#[tokio::test]
async fn realisations_come_with_their_paths_if_a_trusted_key_has_signed_them() {
    let ground = Ground::new().await;
    ground.theirs.publish("one", &[]).await;
    ground.theirs.publish("two", &[]).await;
    let realised =
        |number: u8, name: &str| Realisation::new(Named::Hash([number; 32]), "out", path(name)).unwrap();
    let traced = Realisation::new(Named::Path(path("one.drv")), "out", path("one")).unwrap();
    let stranger = SecretKey::generate("theirs-1").unwrap();
    for (one, key) in [
        (&realised(1, "one"), &ground.theirs.key),
        (&traced, &ground.theirs.key),
        (&realised(2, "one"), &stranger),
        (&realised(3, "two"), &ground.theirs.key),
    ] {
        ground.theirs.put(&one.key(), one.compose(std::slice::from_ref(key)).unwrap()).await;
    }
    ground.theirs.put("realisations/x.doi", "{").await;
    assert_eq!(ground.copy(&["one"], Carry::Through).await.words["one"], ["pushed"]);
    let mut keys = Vec::new();
    for prefix in ["realisations/", "build-trace-v2/"] {
        let page = ground.ours.shared().list(prefix, None, Depth::Flat).await.unwrap();
        keys.extend(page.objects.into_iter().map(|object| object.key));
    }
    assert_eq!(keys, [realised(1, "one").key(), traced.key()]);
    for key in keys {
        let found = Realisation::parse(&key, &ground.ours.bucket_bytes(&key).await).unwrap();
        assert!(found.is_signed_by(&[ground.ours.key.public()]), "{found:?}");
        assert!(
            !found.is_signed_by(&[ground.theirs.key.public()]),
            "signatures that are dropped stay behind"
        );
    }
}

#[tokio::test]
async fn logs_come_with_their_paths_as_text_and_replace_none() {
    let ground = Ground::new().await;
    let names = ["small", "large", "packed", "there", "silent", "without", "too-large"];
    for name in names {
        ground.theirs.publish(name, &[]).await;
    }
    let key = |name: &str| object_keys::log(&path(&format!("{name}.drv")));
    let large = b"a line of a log\n".repeat((4 << 20) / 16 + 1);
    for (name, text) in [
        ("small", b"small".to_vec()),
        ("large", large.clone()),
        ("packed", b"BZh9...".to_vec()),
        ("there", b"theirs".to_vec()),
        ("silent", Vec::new()),
        ("too-large", vec![b'x'; (5 << 20) + 1]),
    ] {
        ground.theirs.put(&key(name), text).await;
    }
    ground.ours.put(&key("there"), "ours").await;
    assert_eq!(ground.copy(&names, Carry::Through).await.logs, 2);
    let page = ground.ours.shared().list("log/", None, Depth::Flat).await.unwrap();
    let mut keys: Vec<_> = page.objects.into_iter().map(|object| object.key).collect();
    let mut expected = [key("small"), key("large"), key("there")];
    keys.sort();
    expected.sort();
    assert_eq!(keys, expected);
    assert_eq!(ground.ours.bucket_bytes(&key("there")).await, b"ours");
    let found = ground.ours.shared().get_part(&key("large"), 4 << 20, 100).await.unwrap().unwrap();
    assert_eq!(found.len(), large.len() - (4 << 20));
}
