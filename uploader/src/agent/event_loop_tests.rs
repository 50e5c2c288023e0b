use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use larder_hook::queue::{Entry, Job, Layout, Origin};
use larder_hook::store_path::StorePath as QueuedPath;

use super::*;
use crate::base::lock::lock;
use crate::bucket::memory::MemoryBucket;
use crate::bucket::{Bucket, Condition, ContentType};
use crate::format::cache_info::CacheInfo;
use crate::format::marker::Reservation;
use crate::format::object_keys::{self, Compression};
use crate::init::{write_cache_info, write_marker};
use crate::push::decide::{Rules, patterns};
use crate::push::progress::Silent;
use crate::push::send::compress::{Level, Settings};
use crate::push::{Options, PinRules, Report};
use crate::store::{DaemonAddress, StoreDir};

const STORE: &str = "/nix/store";

/// A store whose daemon is the program that listens below `dir`, if any.
fn store(dir: &Path) -> Arc<StoreLocation> {
    Arc::new(StoreLocation {
        store_dir: StoreDir::default(),
        real_dir: STORE.into(),
        state_dir: "/nix/var/nix".into(),
        log_dir: "/nix/var/log/nix".into(),
        daemon: DaemonAddress::Socket(dir.join("socket")),
    })
}

fn queue(dir: &Path) -> Arc<Queue> {
    Arc::new(Queue::new(Layout::ready(&dir.join("queue")).unwrap(), STORE))
}

/// The agent of the queue below `dir`; it can open the session of `pusher` and no other.
async fn agent(dir: &Path, pusher: Option<Pusher>) -> Agent {
    let pusher = Mutex::new(pusher);
    let connect: Connect = Box::new(move || {
        let absent = || Error::transient(Area::Bucket, "no session");
        Box::pin(std::future::ready(lock(&pusher).take().ok_or_else(absent)))
    });
    Agent::open(queue(dir), store(dir), connect, Arc::new(Silent)).await.unwrap().unwrap()
}

/// A bucket that is ready for sessions.
async fn ready_bucket() -> Arc<dyn Bucket> {
    let bucket = Arc::new(MemoryBucket::default());
    write_cache_info(&*bucket, &CacheInfo::new(&StoreDir::default(), 30)).await.unwrap();
    write_marker(&*bucket).await.unwrap();
    bucket
}

async fn pusher(bucket: &Arc<dyn Bucket>, dir: &Path) -> Pusher {
    let rules = Rules {
        upstream_keys: Vec::new(),
        push_upstream: false,
        trusted_keys: Vec::new(),
        trust_unsigned: false,
        closure_trust: true,
        exclude: patterns(&[]).unwrap(),
        max_nar_size: None,
    };
    let compression = Settings { compression: Compression::Zstd, level: Level::Adaptive, threads: 1 };
    let options = Options {
        compression,
        jobs: 1,
        listings: false,
        logs: Default::default(),
        rules,
        adopt: Vec::new(),
        trust_bucket: false,
        pins: PinRules::default(),
    };
    Pusher::open(bucket.clone(), store(dir), Vec::new(), options).await.unwrap()
}

fn has_lease(bucket: &Arc<dyn Bucket>, id: &str) -> impl Future<Output = bool> {
    let (bucket, key) = (bucket.clone(), object_keys::lease(id));
    async move { bucket.head(&key).await.unwrap().is_some() }
}

/// Queues a job, and returns its id.
fn enqueue(dir: &Path) -> String {
    let job = Job {
        origin: Origin::Retry,
        created: now(),
        deriver: None,
        trusted_keys: Vec::new(),
        paths: vec![QueuedPath::parse(STORE, "/nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-a").unwrap()],
        attempts: Vec::new(),
        roots: 1,
    };
    queue(dir).enqueue(&job, Place::State, None).unwrap().0
}

/// A path of the store, 48 bytes long.
const PATH: &str = "/nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-a-bc";

/// A daemon that greets each client, answers its first question with one path, and then is silent.
fn listen(dir: &Path) {
    let listener = UnixListener::bind(dir.join("socket")).unwrap();
    thread::spawn(move || {
        let mut clients = Vec::new();
        for mut client in listener.incoming().flatten() {
            // The magic number, version 1.34 of the protocol, a text of 4 bytes, and the end of the messages.
            for word in [0x6478_696f, 0x122, 4, u64::from_le_bytes(*b"2.99\0\0\0\0"), 0x616c_7473] {
                let _ = client.write_all(&word.to_le_bytes());
            }
            // The end of the messages, and a list of one text, which needs no padding.
            for word in [0x616c_7473, 1, PATH.len() as u64] {
                let _ = client.write_all(&word.to_le_bytes());
            }
            let _ = client.write_all(PATH.as_bytes());
            clients.push(client);
        }
    });
}

/// Polls the future once, then drops it, as the loop's futures are dropped when the agent is stopped.
fn stop_at_first_await(future: impl Future) {
    assert!(future.now_or_never().is_none(), "the future has no await that could be stopped");
}

#[tokio::test]
async fn a_session_that_has_ended_is_no_fault_of_the_bucket() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = agent(dir.path(), None).await;
    let mut end = async |suspicion| {
        (agent.recheck, agent.pause_ends, agent.failures) = (false, None, 0);
        let (ids, asked, report) = (Vec::new(), BTreeSet::new(), Ok(Report::default()));
        let general = agent.end_push(EndedPush { ids, asked, report, suspicion }).await.unwrap();
        (general.is_some(), agent.pause_ends.is_some(), agent.recheck)
    };
    assert_eq!(end(Suspicion::SessionEnded).await, (false, false, true));
    let error = Error::transient(Area::Bucket, "no answer");
    assert_eq!(end(Suspicion::Bucket(error)).await, (true, true, true));
}

#[tokio::test]
async fn a_stopped_agent_counts_the_attempt_of_a_push_that_failed_because_of_its_job() {
    let dir = tempfile::tempdir().unwrap();
    listen(dir.path());
    let id = enqueue(dir.path());
    let mut agent = agent(dir.path(), None).await;
    agent.take_jobs().await.unwrap();
    let error = Error::transient(Area::Store, "a file cannot be read");
    stop_at_first_await(agent.end_failed_push(vec![id.clone()], error));
    agent.queue.ask(|_| ()).await.unwrap();
    let Entry::Job(job, _) = queue(dir.path()).read(Place::Work, &id).unwrap() else { panic!("no job") };
    assert_eq!(job.attempts.iter().map(|attempts| attempts.count).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn without_a_daemon_a_failed_push_counts_no_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let id = enqueue(dir.path());
    let mut agent = agent(dir.path(), None).await;
    agent.take_jobs().await.unwrap();
    let error = Error::transient(Area::Store, "a file cannot be read");
    assert!(agent.end_failed_push(vec![id.clone()], error).await.unwrap().is_some());
    assert!(agent.pause_ends.is_some());
    let Entry::Job(job, _) = queue(dir.path()).read(Place::Work, &id).unwrap() else { panic!("no job") };
    assert!(job.attempts.is_empty());
}

#[tokio::test]
async fn a_stopped_agent_finishes_the_end_of_its_session() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = ready_bucket().await;
    let mut agent = agent(dir.path(), Some(pusher(&bucket, dir.path()).await)).await;
    let id = agent.session().await.unwrap().unwrap().id().to_owned();
    assert!(has_lease(&bucket, &id).await);
    stop_at_first_await(agent.close_session());
    agent.run(Until::Stopped, std::future::ready(()), Duration::from_secs(5)).await.unwrap();
    assert!(!has_lease(&bucket, &id).await);
}

#[tokio::test]
async fn a_stopped_agent_begins_the_sweep_after_its_former_session() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = ready_bucket().await;
    let (former, next) = (pusher(&bucket, dir.path()).await, pusher(&bucket, dir.path()).await);
    let id = former.id().to_owned();
    let mut agent = agent(dir.path(), Some(next)).await;
    let noted = id.clone();
    agent.queue.ask(move |keeper| keeper.note_session(&noted)).await.unwrap();
    // The former agent was killed: nothing deletes what it left.
    drop(former);
    let left = object_keys::reservation(&[7; 32]);
    let reservation = Reservation { writer: id.clone() }.to_json().into();
    bucket.put(&left, reservation, ContentType::Json, Condition::None).await.unwrap();
    stop_at_first_await(agent.session());
    agent.run(Until::Stopped, std::future::ready(()), Duration::from_secs(5)).await.unwrap();
    assert!(bucket.head(&left).await.unwrap().is_none());
    // Only a collector can tell that none of its requests may still be carried out.
    assert!(has_lease(&bucket, &id).await);
}

#[tokio::test]
async fn refused_copies_of_credentials_end_an_agent_that_has_had_them_for_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = agent(dir.path(), None).await;
    let [credentials, bucket] =
        [Area::Credentials, Area::Bucket].map(|area| Error::permanent(area, "refused"));
    let now = Instant::now();
    for (copied_at, ends) in [(None, false), (Some(now), false), (now.checked_sub(COPIES_AGE), true)] {
        agent.copied_at = copied_at;
        assert_eq!(agent.ends(&Until::Stopped, &credentials), ends, "{copied_at:?}");
        assert!(!agent.ends(&Until::Stopped, &bucket));
    }
}

#[tokio::test]
async fn the_first_status_counts_the_jobs_that_wait() {
    let dir = tempfile::tempdir().unwrap();
    let address = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    enqueue(dir.path());
    let agent = agent(dir.path(), None).await.with_service(Service::new(Some(address.into()), None));
    let (reported, has_reported) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        let mut buffer = [0; 256];
        let mut next =
            || socket.recv(&mut buffer).map(|size| String::from_utf8_lossy(&buffer[..size]).into_owned());
        reported.send([next(), next()].map(Result::unwrap)).unwrap();
    });
    let mut messages = None;
    let stop = async { messages = Some(has_reported.await.unwrap()) };
    agent.run(Until::Stopped, stop, Duration::from_secs(5)).await.unwrap();
    assert_eq!(messages.unwrap(), ["READY=1", "STATUS=1 job is queued"]);
}
