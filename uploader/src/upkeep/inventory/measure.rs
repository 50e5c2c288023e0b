//! The memory and the time of the inventory of a large bucket. A release build measures what users have:
//! `LARDER_PATHS=1000000 cargo test --locked --release -p larder --lib -- --ignored --nocapture inventory::measure`.

use std::fs;
use std::time::{Duration, Instant};

use super::listing::list;
use super::{Cache, Catalog, NoRecords, PathId, take};
use crate::bucket::Bucket;
use crate::format::object_keys;
use crate::format::summary::Summary;
use crate::upkeep::large::{self, LargeBucket};

/// The most bytes of a path in a catalog, with its NAR, its name and eight references.
const MOST_BYTES: usize = 400;

/// A number of bytes from `/proc/self/status`.
fn memory(field: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().unwrap() * 1024
}

/// The processor time of the process so far.
fn processor() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // The kernel counts in hundredths of a second.
    Duration::from_millis(fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
}

/// The time of a piece of work, the growth of the memory, and the highest growth on the way.
async fn measured<T>(what: &str, work: impl Future<Output = T>) -> (T, Duration, usize) {
    let before = memory("VmRSS:");
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let (begun, used) = (Instant::now(), processor());
    let value = work.await;
    let (took, used) = (begun.elapsed(), processor() - used);
    let peak = memory("VmHWM:").saturating_sub(before);
    let grown = memory("VmRSS:").saturating_sub(before);
    let mib = |bytes: usize| bytes >> 20;
    eprintln!(
        "{what}: {:.1} s ({:.1} s of processors), {} MiB more, {} MiB at most",
        took.as_secs_f64(),
        used.as_secs_f64(),
        mib(grown),
        mib(peak)
    );
    (value, took, peak)
}

/// What a collection does with a catalog: the closures of a tenth of the paths, and the referrers.
fn decide(catalog: &Catalog) -> usize {
    let roots = (0..catalog.size() as u32).step_by(10).map(PathId);
    let closure = catalog.closure(roots);
    let referrers = catalog.referrers();
    catalog.ids().filter(|id| !closure.contains(*id) && referrers.of_path(*id).is_empty()).count()
}

/// Says what the bucket and the judgement cost.
async fn judge_some(bucket: &LargeBucket) {
    const SOME: u32 = 1000;
    let options = bucket.options();
    let begun = Instant::now();
    let mut objects = Vec::new();
    for number in 0..SOME {
        objects.push(bucket.get(&object_keys::narinfo(&large::path(number))).await.unwrap().unwrap());
    }
    let given = begun.elapsed() / SOME;
    let begun = Instant::now();
    for (number, object) in (0..SOME).zip(&objects) {
        let path = large::path(number);
        Summary::read(&options.store_dir, &options.trusted[..], path.digest(), &object.body).unwrap();
    }
    eprintln!("the bucket takes {given:?} for each narinfo, the judgement {:?}", begun.elapsed() / SOME);
}

#[ignore = "takes minutes"]
#[tokio::test(flavor = "multi_thread")]
async fn a_large_bucket_takes_little_memory_and_time() {
    let paths = std::env::var("LARDER_PATHS").map_or(100_000, |paths| paths.parse().unwrap());
    let bucket = LargeBucket::new(paths);
    let options = bucket.options();
    let directory = tempfile::tempdir().unwrap();
    judge_some(&bucket).await;
    measured("listed", async { drop(list(&bucket).await.unwrap()) }).await;
    let (catalog, _, peak) =
        measured("read", async { take(&bucket, &options, &mut NoRecords, &|_, _| {}).await.unwrap() }).await;
    let (unneeded, ..) = measured("decided", async { decide(&catalog) }).await;
    assert_eq!(catalog.paths(), paths as usize);
    assert_eq!(catalog.ids().find_map(|id| catalog.fault(id)), None);
    assert!(unneeded < paths as usize);
    eprintln!("{} bytes for each path", catalog.bytes() / paths as usize);
    assert!(catalog.bytes() / (paths as usize) < MOST_BYTES);
    assert!(peak < (32 << 20) + paths as usize * 1000, "{peak}");
    let some = catalog.find(large::path(paths / 2).digest()).unwrap();
    let references = catalog.present_references(some).count();
    assert_eq!(references, large::references(paths / 2).count());
    drop(catalog);
    let cached = async || {
        let mut cache = Cache::open(directory.path(), "large:", &options).unwrap();
        take(&bucket, &options, &mut cache, &|_, _| {}).await.unwrap()
    };
    measured("read, and kept", cached()).await;
    let (catalog, took, _) = measured("known", cached()).await;
    measured("decided", async { decide(&catalog) }).await;
    let file = fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().metadata().unwrap().len();
    eprintln!("{} bytes of the file for each path", file / u64::from(paths));
    assert!(took < Duration::from_secs(60), "{took:?}");
}
