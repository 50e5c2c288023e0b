use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::store_path::StorePath;
use crate::time::now;

const DIR: &str = "/nix/store";

fn path(name: &str) -> StorePath {
    StorePath::parse(DIR, &format!("/nix/store/0c5b8vw40dy178xlpddw65q9gf1h2186-{name}")).unwrap()
}

fn job(names: &[&str]) -> Job {
    Job {
        origin: Origin::Hook,
        created: now(),
        deriver: None,
        trusted_keys: Vec::new(),
        paths: names.iter().map(|name| path(name)).collect(),
        attempts: Vec::new(),
        roots: names.len(),
    }
}

struct Scratch {
    dir: tempfile::TempDir,
    queue: Queue,
}

fn scratch() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::create(&dir.path().join("q"), None).unwrap();
    Scratch { queue: Queue::new(layout, DIR), dir }
}

#[test]
fn a_job_is_queued_taken_rewritten_and_removed_with_its_roots() {
    let Scratch { dir, queue } = scratch();
    let auto = dir.path().join("auto");
    let (id, unprotected) = queue.enqueue(&job(&["a", "b"]), Place::Tmp, Some(&auto)).unwrap();
    assert!(unprotected.is_none());
    assert_eq!(queue.list(Place::Incoming).unwrap(), [id.as_str()]);
    assert_eq!(queue.rooted().unwrap()[&id].len(), 2);
    // The link in Nix's directory leads to the link in `roots/`, which leads to the store path.
    let entry = std::fs::read_link(auto.join(format!("larder-{id}.1"))).unwrap();
    assert_eq!(std::fs::read_link(entry).unwrap().to_str(), Some(path("b").as_str()));

    assert!(queue.take(&id).unwrap());
    assert!(!queue.take(&id).unwrap(), "taken twice");
    assert!(queue.list(Place::Incoming).unwrap().is_empty());
    let Entry::Job(mut read, Author::Trusted) = queue.read(Place::Work, &id).unwrap() else { panic!() };
    read.attempts.push(Attempts { path: path("a"), count: 1, next: 5, reason: "x".into() });
    queue.rewrite(&id, &read).unwrap();
    let Entry::Job(again, _) = queue.read(Place::Work, &id).unwrap() else { panic!() };
    assert_eq!(again, read);

    queue.remove(&id, read.roots).unwrap();
    assert!(queue.rooted().unwrap().is_empty());
    assert!(matches!(queue.read(Place::Work, &id).unwrap(), Entry::Gone));
    assert!(queue.list(Place::Tmp).unwrap().is_empty());
}

#[test]
fn abandoned_drafts_are_removed_after_a_day_and_other_files_stay() {
    let Scratch { dir, queue } = scratch();
    let tmp = dir.path().join("q/tmp");
    let day = std::time::Duration::from_secs(24 * 3600);
    let now = std::time::SystemTime::now();
    let times = [("young", now), ("old", now - 2 * day), ("ahead", now + 2 * day)];
    for (name, time) in times {
        let file = std::fs::File::create(tmp.join(format!(".new-{name}"))).unwrap();
        file.set_modified(time).unwrap();
    }
    std::fs::File::create(tmp.join("other")).unwrap().set_modified(now - 2 * day).unwrap();
    queue.enqueue(&job(&["a"]), Place::Tmp, None).unwrap();
    let mut left: Vec<_> =
        std::fs::read_dir(&tmp).unwrap().flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, [".new-young", "other"]);
}

#[test]
fn concurrent_hooks_lose_no_job() {
    let Scratch { dir: _dir, queue } = scratch();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope
                .spawn(|| (0..50).for_each(|_| drop(queue.enqueue(&job(&["a"]), Place::Tmp, None).unwrap())));
        }
    });
    assert_eq!(queue.list(Place::Incoming).unwrap().len(), 400);
}

#[test]
fn symbolic_links_in_place_of_directories_and_jobs_are_not_followed() {
    let Scratch { dir, queue } = scratch();
    let victim = dir.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    for place in [Place::Roots, Place::Incoming] {
        let at = queue.layout().path().join(place.name());
        std::fs::remove_dir_all(&at).unwrap();
        std::os::unix::fs::symlink(&victim, &at).unwrap();
    }
    assert!(queue.enqueue(&job(&["a"]), Place::Tmp, None).is_err());
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
    // A symbolic link in place of a job is not read either.
    let secret = dir.path().join("secret");
    std::fs::write(&secret, job(&["a"]).to_text()).unwrap();
    std::os::unix::fs::symlink(&secret, queue.layout().path().join("work/x")).unwrap();
    assert!(queue.read(Place::Work, "x").is_err());
}

#[test]
fn a_failed_enqueue_leaves_no_file_and_no_root() {
    let Scratch { dir: _dir, queue } = scratch();
    let tmp = queue.layout().path().join("tmp");
    std::fs::remove_dir(&tmp).unwrap();
    let error = queue.enqueue(&job(&["a"]), Place::Tmp, None).unwrap_err();
    assert!(error.to_string().contains("tmp"), "{error}");
    assert!(queue.rooted().unwrap().is_empty());
    assert!(queue.list(Place::Incoming).unwrap().is_empty());
}

#[test]
fn a_damaged_job_is_reported_and_its_roots_still_name_its_paths() {
    let Scratch { dir: _dir, queue } = scratch();
    let (id, _) = queue.enqueue(&job(&["a"]), Place::Tmp, None).unwrap();
    std::fs::write(queue.layout().path().join("incoming").join(&id), "").unwrap();
    assert!(matches!(queue.read(Place::Incoming, &id).unwrap(), Entry::Bad(BadJob::Damaged(_))));
    assert_eq!(queue.rooted().unwrap()[&id], [path("a")]);
}

#[test]
fn parked_paths_keep_their_reason_and_their_root() {
    let Scratch { dir: _dir, queue } = scratch();
    let parked = Parked {
        path: path("a"),
        since: 7,
        attempts: 3,
        reason: "hash differs".into(),
        blocked_by: Some(path("b")),
        trusted_keys: vec!["k:x".into()],
        origin: Origin::Hook,
    };
    queue.park(&parked).unwrap();
    queue.park(&parked).unwrap();
    assert_eq!(queue.parked().unwrap().0, std::slice::from_ref(&parked));
    assert_eq!(queue.rooted().unwrap().values().flatten().count(), 1);
    queue.unpark(&parked).unwrap();
    assert!(queue.parked().unwrap().0.is_empty() && queue.rooted().unwrap().is_empty());
}

#[test]
fn a_queue_has_one_agent() {
    let Scratch { dir: _dir, queue } = scratch();
    let lock = queue.lock().unwrap();
    assert!(lock.is_some() && queue.lock().unwrap().is_none());
    assert!(queue.has_agent().unwrap());
    drop(lock);
    assert!(!queue.has_agent().unwrap());
    assert!(queue.lock().unwrap().is_some());
}

/// The modes of the state directory and of the directories below.
fn modes(state: &std::path::Path) -> Vec<(&'static str, u32)> {
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let below = Place::ALL.into_iter().map(|place| (place.name(), mode(state.join(place.name()))));
    std::iter::once((".", mode(state.to_owned()))).chain(below).collect()
}

#[test]
fn only_the_owner_can_write_drafts_and_take_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("deep/q");
    let open = [(".", 0o755), ("state", 0o700), ("tmp", 0o700), ("incoming", 0o755)];
    let expected = [&open[..], &[("work", 0o755), ("parked", 0o755), ("roots", 0o755)]].concat();
    Layout::create(&state, None).unwrap();
    assert_eq!(modes(&state), expected);
    // As earlier versions made it, and as a maker with another umask did.
    for mode in [0o755, 0o700] {
        for place in Place::ALL.into_iter().filter(|place| *place != Place::Incoming) {
            let path = state.join(place.name());
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        Layout::create(&state, None).unwrap();
        assert_eq!(modes(&state), expected);
    }
    // The group that may write into `incoming/` keeps its right.
    std::fs::set_permissions(state.join("incoming"), std::fs::Permissions::from_mode(0o770)).unwrap();
    Layout::create(&state, None).unwrap();
    assert_eq!(modes(&state)[3], ("incoming", 0o770));
}

#[test]
fn the_time_of_the_queue_is_recorded_before_the_queue_is_complete_and_then_kept() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("q");
    // A process was killed after it had made the first directory.
    std::fs::create_dir_all(state.join("state")).unwrap();
    let layout = Layout::ready(&state).unwrap();
    let since = || layout.read(Place::State, SINCE).unwrap().map(|(text, _)| text);
    assert!(since().is_some_and(|text| String::from_utf8(text).unwrap().trim().parse::<u64>().is_ok()));
    assert_eq!(layout.names(Place::State).unwrap(), [SINCE]);
    std::fs::write(state.join("state/since"), "7\n").unwrap();
    std::fs::remove_dir(state.join("roots")).unwrap();
    Layout::ready(&state).unwrap();
    assert_eq!(since().as_deref(), Some(&b"7\n"[..]));
    // A complete queue without the time has lost it. Only `larder catch-up` may record another time, and says so.
    std::fs::remove_file(state.join("state/since")).unwrap();
    Layout::create(&state, None).unwrap();
    assert!(since().is_none());
}

#[test]
fn a_parked_path_is_queued_again_in_one_step() {
    let Scratch { dir: _dir, queue } = scratch();
    let parked = Parked {
        path: path("a"),
        since: 7,
        attempts: 3,
        reason: "x".into(),
        blocked_by: None,
        trusted_keys: vec!["k:x".into()],
        origin: Origin::Hook,
    };
    queue.park(&parked).unwrap();
    let (id, _) = queue.requeue(&parked, None).unwrap().unwrap();
    assert!(queue.parked().unwrap().0.is_empty());
    let Entry::Job(job, _) = queue.read(Place::Incoming, &id).unwrap() else { panic!() };
    assert_eq!(
        (job.origin, job.paths, job.trusted_keys),
        (Origin::Hook, vec![path("a")], vec!["k:x".to_owned()])
    );
    assert!(queue.requeue(&parked, None).unwrap().is_none(), "the path is no longer parked");
    queue.sweep_parked_roots().unwrap();
    assert_eq!(queue.rooted().unwrap().into_keys().collect::<Vec<_>>(), [id]);
}

#[test]
fn a_job_of_another_store_is_not_damage() {
    let Scratch { dir: _dir, queue } = scratch();
    let (id, _) = queue.enqueue(&job(&["a"]), Place::Tmp, None).unwrap();
    let other = Queue::new(Layout::open(queue.layout().path()).unwrap(), "/gnu/store");
    let Entry::Bad(bad) = other.read(Place::Incoming, &id).unwrap() else { panic!() };
    assert_eq!(bad, BadJob::Elsewhere(DIR.into()));
    assert!(bad.is_to_be_left_alone());
}
