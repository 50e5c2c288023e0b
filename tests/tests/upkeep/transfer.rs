//! `larder copy` brings paths from other caches, and `larder promote` from a staging prefix, without a local store.

use anyhow::{Context, Result, ensure};
use larder_tests::larder::LarderHome;
use larder_tests::need::{Requirement, need};
use larder_tests::nix::{KeyPair, NixHome, NixVersion, narinfo_key, samples, versions};
use larder_tests::proxy::Proxy;
use larder_tests::servers::{Directory, FileServer, Kind};
use larder_tests::world::{BUCKET, Target, field};
use std::fs;
use std::os::unix::process::ExitStatusExt;

/// A cache that `nix copy` has made in a directory, and a larder without a store, with an empty bucket.
struct Ground {
    nix: NixHome,
    theirs: tempfile::TempDir,
    their_key: KeyPair,
    paths: Vec<String>,
    larder: LarderHome,
    key: KeyPair,
    target: Target,
}

impl Ground {
    fn new(version: NixVersion, target: Target) -> Result<Self> {
        let nix = NixHome::new(version)?;
        let paths = nix.build(&samples::layered("transfer", 2))?;
        let (theirs, their_key) = (tempfile::tempdir()?, nix.key_pair("theirs-1")?);
        let all: Vec<_> = nix.closure(&paths)?.into_iter().map(|info| info.path).collect();
        nix.sign(&their_key, &all)?;
        nix.copy_to(&format!("file://{}?compression=xz", theirs.path().display()), &paths)?;
        let (larder, key) = (larder(&nix, &target, "")?, nix.key_pair("ours-1")?);
        let mut ground = Self { nix, theirs, their_key, paths, larder, key, target };
        ground.larder.use_keys(&[&ground.key])?;
        ground.larder.run(&["init"])?;
        Ok(ground)
    }

    fn from(&self) -> String {
        format!("file://{}", self.theirs.path().display())
    }

    /// Checks that a client that trusts only our key takes everything.
    fn assert_taken(&self) -> Result<()> {
        let client = self.nix.twin()?;
        let base = self.target.public_base().context("no public URL")?;
        client.substitute(&self.paths, &base, &self.key.public)
    }

    fn narinfo(&self, path: &str) -> Result<Option<String>> {
        Ok(self.target.get(&narinfo_key(path))?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// A larder without a store, for the bucket at a prefix.
fn larder(nix: &NixHome, target: &Target, prefix: &str) -> Result<LarderHome> {
    let mut larder = LarderHome::bare()?;
    match target {
        Target::Directory(directory) => larder.use_directory(&directory.path().join(prefix))?,
        Target::Server(server) => larder.use_server(&**server, &format!("{BUCKET}/{prefix}"))?,
    }
    larder.set_string("store-dir", &nix.store_dir().display().to_string())?;
    larder.set_string("daemon-socket", "/nonexistent/socket")?;
    Ok(larder)
}

fn targets() -> Result<Vec<Target>> {
    let mut targets = vec![Target::Directory(Directory::start()?)];
    if Kind::MinIo.is_here() {
        targets.push(Target::server(Kind::MinIo)?);
    }
    Ok(targets)
}

#[test]
fn a_cache_of_nix_copy_moves_into_a_bucket() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    for target in targets()? {
        let ground = Ground::new(version, target)?;
        let from = ground.from();
        let refused = ground.larder.try_run(&["copy", "--from", &from, "--all"])?;
        ensure!(refused.code() == 3 && refused.stderr.contains("--trust-source"), "{refused:?}");
        ensure!(ground.narinfo(&ground.paths[0])?.is_none(), "nothing is signed that nobody trusts");
        let args = ["copy", "--from", &from, "--all", "--trust-source", &ground.their_key.public];
        ground.larder.run(&[&args[..], &["--dry-run"]].concat())?;
        ensure!(ground.narinfo(&ground.paths[0])?.is_none(), "a dry run copies nothing");
        ground.larder.run(&args)?;
        ground.assert_taken()?;
        ground.larder.run(&["verify", "--data", "--key", &ground.key.public])?;
        let narinfo = ground.narinfo(&ground.paths[0])?.context("no narinfo")?;
        ensure!(field(&narinfo, "Compression") == Some("zstd"), "{narinfo}");
        let before = ground.target.list()?;
        let again = ground.larder.run(&args)?;
        ensure!(again.stderr.contains("0 paths copied"), "{again:?}");
        let after = ground.target.list()?;
        ensure!(
            after
                .iter()
                .filter(|(key, _)| key.starts_with("nar/"))
                .eq(before.iter().filter(|(key, _)| key.starts_with("nar/")))
        );
    }
    Ok(())
}

#[test]
fn a_cache_over_http_needs_paths_and_is_copied_with_what_they_refer_to() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    let ground = Ground::new(version, Target::Directory(Directory::start()?))?;
    let server = FileServer::start(ground.theirs.path())?;
    let trust = ["--trust-source", &ground.their_key.public];
    let refused =
        ground.larder.try_run(&[&["copy", "--from", &server.url(), "--all"], &trust[..]].concat())?;
    ensure!(refused.code() == 2 && refused.stderr.contains("--closure-of"), "{refused:?}");
    let list = ground.larder.dir().join("paths");
    fs::write(&list, format!("{}\n\n", ground.paths.join("\n")))?;
    let list = list.display().to_string();
    ground.larder.run(&[&["copy", "--from", &server.url(), "--closure-of", &list], &trust[..]].concat())?;
    ground.assert_taken()
}

#[test]
fn a_changed_nar_is_refused_and_nothing_above_it_is_published() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    let ground = Ground::new(version, Target::Directory(Directory::start()?))?;
    let all = ground.nix.closure(&ground.paths)?;
    let base = all.iter().find(|info| info.path.ends_with("-base")).context("a base")?;
    let narinfo = fs::read_to_string(ground.theirs.path().join(narinfo_key(&base.path)))?;
    let nar = ground.theirs.path().join(field(&narinfo, "URL").context("a URL")?);
    let mut bytes = fs::read(&nar)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&nar, bytes)?;
    let args = ["copy", "--from", &ground.from(), "--all", "--trust-source", &ground.their_key.public];
    let output = ground.larder.try_run(&args)?;
    ensure!(output.code() == 3 && output.stderr.contains("is not used"), "{output:?}");
    ensure!(ground.narinfo(&base.path)?.is_none() && ground.narinfo(&ground.paths[0])?.is_none());
    ground.larder.run(&["verify", "--key", &ground.key.public])?;
    Ok(())
}

#[test]
fn a_killed_copy_is_continued() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    if need(Requirement::FaultyBuild).is_none() {
        return Ok(());
    }
    let ground = Ground::new(version, Target::Directory(Directory::start()?))?;
    let args = ["copy", "--from", &ground.from(), "--all", "--trust-source", &ground.their_key.public];
    for _ in 0..3 {
        let mut command = ground.larder.faulty_command(&args, "transfer: published:1")?;
        let killed = larder_tests::process::run(&mut command, std::time::Duration::from_secs(60))?;
        ensure!(killed.status.signal() == Some(9), "{killed:?}");
        ground.larder.run(&["verify", "--key", &ground.key.public])?;
    }
    ground.larder.run(&args)?;
    ground.assert_taken()
}

#[test]
fn staged_builds_become_trusted_without_their_bytes_passing_through() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    for target in targets()? {
        let mut ground = Ground::new(version, target)?;
        let mut staging = larder(&ground.nix, &ground.target, "staging/pr-7")?;
        staging.use_keys(&[&ground.their_key])?;
        staging.run(&["init", "--create"])?;
        staging.run(&["copy", "--from", &ground.from(), "--all"])?;
        let refused = ground.larder.try_run(&["promote", "--from", "staging/pr-7"])?;
        ensure!(refused.code() == 2 && refused.stderr.contains("--trust-source"), "{refused:?}");
        let proxy = match &ground.target {
            Target::Server(server) => Some(Proxy::start(&server.endpoint())?),
            Target::Directory(_) => None,
        };
        if let (Some(proxy), Target::Server(server)) = (&proxy, &ground.target) {
            ground.larder.use_server_at(&**server, &proxy.endpoint(), BUCKET)?;
        }
        let args = ["promote", "--from", "staging/pr-7", "--trust-source", &ground.their_key.public];
        ground.larder.run(&args)?;
        ground.assert_taken()?;
        let narinfo = ground.narinfo(&ground.paths[0])?.context("no narinfo")?;
        ensure!(narinfo.contains("Sig: ours-1:") && !narinfo.contains("Sig: theirs-1:"), "{narinfo}");
        if let Some(proxy) = &proxy {
            let log = proxy.log();
            let read = log.iter().filter(|one| one.method == "GET" && one.path.contains("/nar/")).count();
            let copied = log.iter().filter(|one| one.header("x-amz-copy-source").is_some()).count();
            ensure!(read == 0 && copied > 0, "{read} NARs were read, {copied} copied");
        }
        ground.larder.run(&["verify", "--data", "--key", &ground.key.public])?;
    }
    Ok(())
}

/// As a bucket of larder, attic or cachix: the other cache lacks what clients take from upstream.
#[test]
fn what_the_other_cache_leaves_to_upstream_is_no_obstacle() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    for command in ["copy", "promote"] {
        let mut ground = Ground::new(version, Target::Directory(Directory::start()?))?;
        let all = ground.nix.closure(&ground.paths)?;
        let base = all.iter().find(|info| info.path.ends_with("-base")).context("a base")?.path.clone();
        let (upstream, nothing) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let upstream_key = ground.nix.key_pair("upstream-1")?;
        let below: Vec<_> =
            ground.nix.closure(std::slice::from_ref(&base))?.into_iter().map(|info| info.path).collect();
        ground.nix.sign(&upstream_key, &below)?;
        ground.nix.copy_to(&format!("file://{}", upstream.path().display()), &below)?;
        for path in &below {
            fs::remove_file(ground.theirs.path().join(narinfo_key(path)))?;
        }
        ground.larder.set("upstream-keys", &format!("[\"{}\"]", upstream_key.public))?;
        let servers = [FileServer::start(nothing.path())?, FileServer::start(upstream.path())?];
        let (from, [lacking, having]) = (ground.from(), servers.each_ref().map(FileServer::url));
        let mut args = vec![command, "--from", &from, "--trust-source", &ground.their_key.public];
        if command == "copy" {
            args.push("--all");
        }
        let refused = ground.larder.try_run(&[&args[..], &["--upstream", &lacking]].concat())?;
        ensure!(refused.code() == 3 && refused.stderr.contains("upstream lack it"), "{refused:?}");
        ensure!(ground.narinfo(&ground.paths[0])?.is_none());
        ground.larder.run(&[&args[..], &["--upstream", &having]].concat())?;
        ensure!(ground.narinfo(&ground.paths[0])?.is_some() && ground.narinfo(&base)?.is_none());
        ground.larder.run(&[
            "verify",
            "--data",
            &format!("--upstream={having}"),
            "--key",
            &ground.key.public,
        ])?;
    }
    Ok(())
}

#[test]
fn other_contents_in_the_main_cache_are_refused_with_a_record() -> Result<()> {
    let Some(version) = versions().first().copied() else { return Ok(()) };
    let ground = Ground::new(version, Target::Directory(Directory::start()?))?;
    // A build that is not reproducible: each build has other contents.
    let expression = samples::big("not reproducible", 1);
    let caches = [tempfile::tempdir()?, tempfile::tempdir()?];
    let mut path = String::new();
    for cache in &caches {
        path = ground.nix.build(&expression)?.remove(0);
        ground.nix.sign(&ground.their_key, std::slice::from_ref(&path))?;
        ground.nix.copy_to(&format!("file://{}", cache.path().display()), std::slice::from_ref(&path))?;
        ground.nix.gc()?.ok()?;
        ensure!(!ground.nix.is_valid(&path), "the next build is another one");
    }
    let from = |cache: &tempfile::TempDir| format!("file://{}", cache.path().display());
    let trust = ["--trust-source", &ground.their_key.public];
    ground.larder.run(&[&["copy", "--from", &from(&caches[0]), "--all"], &trust[..]].concat())?;
    let before = ground.narinfo(&path)?;
    let output =
        ground.larder.try_run(&[&["promote", "--json", "--from", &from(&caches[1])], &trust[..]].concat())?;
    ensure!(output.code() == 3 && output.stdout.contains("\"outcome\":\"differs\""), "{output:?}");
    ensure!(ground.narinfo(&path)? == before);
    Ok(())
}
