//! What Nix' own tests expect of a binary cache, on a bucket that larder has pushed to: damage costs clients a build at most, where
//! the version of Nix allows it, and larder mends it.

use anyhow::{Context, Result, ensure};
use larder_tests::nix::{KeyPair, NixHome, NixVersion, narinfo_key, samples, versions};
use larder_tests::process::{Output, run};
use larder_tests::servers::Directory;
use std::process::Command;
use std::time::Duration;

use super::world::{Target, World, field};

const LIMIT: Duration = Duration::from_secs(120);

/// A bucket with a chain of three paths, and an empty store in the place of the one that they were pushed from.
struct Bucket {
    world: World,
    base: String,
    expression: String,
    /// `link-0`, `link-1`, which refers to it, and `link-2`, which refers to `link-1`.
    links: [String; 3],
}

impl Bucket {
    fn new(version: NixVersion, tag: &str) -> Result<Self> {
        let mut world = World::new(version, Target::Directory(Directory::start()?))?;
        let expression = samples::chain(&format!("{tag} {version}"), 3);
        let top = world.nix.build(&expression)?.remove(0);
        world.larder.run(&["push", &top])?;
        let links = [world.member(&top, "link-0")?, world.member(&top, "link-1")?, top];
        let base = world.target.public_base().context("a public bucket")?;
        world.nix.retire()?;
        Ok(Self { world, base, expression, links })
    }

    fn narinfo(&self, path: &str) -> Result<String> {
        self.world.narinfo(path)?.with_context(|| format!("no narinfo of {path}"))
    }

    /// The key of the NAR of a path.
    fn nar(&self, path: &str) -> Result<String> {
        Ok(field(&self.narinfo(path)?, "URL").context("no URL")?.to_owned())
    }

    /// `nix-build` with the bucket as the only cache, signatures required.
    fn build(&self, args: &[&str]) -> Result<Output> {
        let options = ["--option", "substituters", &self.base, "--option", "require-sigs", "true"];
        let keys = ["--option", "trusted-public-keys", &self.world.key.public, "--option", "builders", ""];
        let args = [&options[..], &keys, args].concat();
        run(&mut self.world.nix.build_command(&self.expression, &args)?, LIMIT)
    }

    /// Checks that a new client takes everything without a build.
    fn assert_whole(&self) -> Result<()> {
        self.world.nix.twin()?.substitute(&[self.links[2].clone()], &self.base, &self.world.key.public)
    }
}

/// The names of the paths that a command built.
fn built(output: &Output) -> Vec<&str> {
    let paths = output.stderr.lines().filter_map(|line| line.strip_prefix("building '")?.split('\'').next());
    paths
        .filter_map(|path| path.strip_suffix(".drv")?.split_once("-link-").map(|(_, number)| number))
        .collect()
}

/// What a version builds where `link-1` cannot be had: 2.34 also builds what is above, which the bucket has.
fn built_for_a_hole(version: NixVersion) -> &'static [&'static str] {
    if version >= NixVersion::V2_34 { &["1", "2"] } else { &["1"] }
}

/// [`Output::ok`], with the version in the error.
fn ok(output: Output, version: NixVersion) -> Result<Output> {
    output.ok().with_context(|| version.to_string())
}

#[test]
fn a_missing_narinfo_in_the_middle_of_a_closure_is_built_and_a_push_brings_it_back() -> Result<()> {
    for version in versions() {
        let bucket = Bucket::new(version, "middle")?;
        bucket.world.target.delete(&narinfo_key(&bucket.links[1]))?;
        let without = bucket.world.nix.twin()?.try_substitute(
            &[bucket.links[2].clone()],
            &bucket.base,
            &bucket.world.key.public,
        )?;
        ensure!(!without.status.success(), "{version}: a hole in the closure was not noticed");
        let output = ok(bucket.build(&[])?, version)?;
        ensure!(built(&output) == built_for_a_hole(version), "{version}: {}", output.stderr);
        ensure!(output.lines() == [bucket.links[2].clone()], "{version}: {}", output.stdout);
        bucket.world.larder.run(&["push", &bucket.links[2]])?;
        bucket.assert_whole()?;
    }
    Ok(())
}

/// A reference to an output of the same derivation that is missing must not send the client round and round.
#[test]
fn a_missing_second_output_ends_in_a_build() -> Result<()> {
    for version in versions() {
        let mut world = World::new(version, Target::Directory(Directory::start()?))?;
        let expression = format!("({}).dev", samples::multi(&format!("second {version}")));
        let dev = world.nix.build(&expression)?.remove(0);
        world.larder.run(&["push", &dev])?;
        let out = world.nix.nix_store(&["-q", "--references", &dev])?.ok()?.lines().remove(0);
        world.target.delete(&narinfo_key(&out))?;
        world.nix.retire()?;
        let base = world.target.public_base().context("a public bucket")?;
        let args = ["--option", "substituters", &base, "--option", "trusted-public-keys", &world.key.public];
        let output = ok(run(&mut world.nix.build_command(&expression, &args)?, LIMIT)?, version)?;
        ensure!(output.lines() == [dev] && world.nix.is_valid(&out), "{version}: {}", output.stderr);
        ensure!(output.stderr.contains("building '"), "{version}: {}", output.stderr);
    }
    Ok(())
}

#[test]
fn a_path_whose_nar_has_gone_is_built_and_a_repair_brings_it_back() -> Result<()> {
    for version in versions() {
        let bucket = Bucket::new(version, "gone")?;
        bucket.world.target.delete(&bucket.nar(&bucket.links[1])?)?;
        // No `--fallback` is needed for that.
        let output = ok(bucket.build(&[])?, version)?;
        ensure!(built(&output) == built_for_a_hole(version), "{version}: {}", output.stderr);
        ensure!(output.stderr.contains("does not exist in binary cache"), "{version}: {}", output.stderr);
        ensure!(output.lines() == [bucket.links[2].clone()], "{version}: {}", output.stdout);
        bucket.world.larder.run(&["repair", "--yes"])?;
        bucket.assert_whole()?;
    }
    Ok(())
}

#[test]
fn a_damaged_nar_is_never_taken_and_a_fallback_builds() -> Result<()> {
    for version in versions() {
        let bucket = Bucket::new(version, "damaged")?;
        let (damaged, sound) = (bucket.nar(&bucket.links[1])?, bucket.nar(&bucket.links[0])?);
        let other = bucket.world.target.get(&sound)?.context("no NAR")?;
        // Another NAR, a part of the NAR, and nothing at all.
        let own = bucket.world.target.get(&damaged)?.context("no NAR")?;
        for bytes in [&other[..], &own[..own.len() / 2], b""] {
            bucket.world.target.put(&damaged, bytes)?;
            let refused = bucket.build(&["--option", "fallback", "false"])?;
            ensure!(!refused.status.success(), "{version}: {} bytes were taken", bytes.len());
            ensure!(!bucket.world.nix.is_valid(&bucket.links[1]), "{version}: {} bytes", bytes.len());
        }
        let output = ok(bucket.build(&["--fallback"])?, version)?;
        ensure!(built(&output) == ["1", "2"], "{version}: {}", output.stderr);
        bucket.world.larder.run(&["repair", "--data", "--yes"])?;
        bucket.assert_whole()?;
    }
    Ok(())
}

#[test]
fn a_wrong_compression_label_is_an_error_from_2_24_and_a_repair_mends_it() -> Result<()> {
    for version in versions() {
        for (label, is_detected) in [("xz", version == NixVersion::V2_8), ("none", false)] {
            let bucket = Bucket::new(version, &format!("label {label}"))?;
            let narinfo = bucket.narinfo(&bucket.links[1])?;
            ensure!(field(&narinfo, "Compression") == Some("zstd"), "{narinfo}");
            // No signature covers this line.
            let wrong = narinfo.replace("Compression: zstd", &format!("Compression: {label}"));
            bucket.world.target.put(&narinfo_key(&bucket.links[1]), wrong.as_bytes())?;
            let output = bucket.build(&["--option", "fallback", "false"])?;
            ensure!(output.status.success() == is_detected, "{version} {label}: {}", output.stderr);
            let output = ok(bucket.build(&["--fallback"])?, version)?;
            // The first build took everything where the version looks at the bytes.
            let numbers: &[_] = if is_detected { &[] } else { &["1", "2"] };
            ensure!(built(&output) == numbers, "{version} {label}: {}", output.stderr);
            bucket.world.larder.run(&["repair", "--data", "--yes"])?;
            ensure!(
                field(&bucket.narinfo(&bucket.links[1])?, "Compression") == Some("zstd"),
                "{version} {label}"
            );
            bucket.assert_whole()?;
        }
    }
    Ok(())
}

#[test]
fn one_signature_of_a_trusted_key_is_enough_whatever_others_there_are() -> Result<()> {
    for version in versions() {
        let mut world = World::new(version, Target::Directory(Directory::start()?))?;
        let second = world.nix.key_pair("second-1")?;
        world.larder.use_keys(&[&world.key.clone(), &second])?;
        let built = world.nix.build(&samples::chain(&format!("keys {version}"), 2))?;
        world.larder.run(&["push", &built[0]])?;
        let base = world.target.public_base().context("a public bucket")?;
        // Keys of the same names, of somebody else.
        let strangers = world.nix.twin()?;
        let (impostor, other) = (strangers.key_pair("test-1")?, strangers.key_pair("third-1")?);
        let public =
            |keys: &[&KeyPair]| keys.iter().map(|key| key.public.as_str()).collect::<Vec<_>>().join(" ");
        for (keys, is_enough) in [
            (public(&[&world.key]), true),
            (public(&[&second]), true),
            (public(&[&second, &world.key]), true),
            (public(&[&other, &second]), true),
            (public(&[&impostor, &second]), true),
            (public(&[&impostor]), false),
            (public(&[&other]), false),
            (String::new(), false),
        ] {
            let output = world.nix.twin()?.try_substitute(&built, &base, &keys)?;
            ensure!(output.status.success() == is_enough, "{version} `{keys}`: {}", output.stderr);
        }
        // A signature that is not one of the key that it names does no harm beside a sound one.
        let narinfo = world.narinfo(&built[0])?.context("no narinfo")?;
        let forged = field(&narinfo, "Sig").and_then(|sig| sig.split_once(':')).context("no signature")?.1;
        let changed =
            format!("{}Sig: {}:{forged}\n", narinfo, other.public.split(':').next().unwrap_or_default());
        world.target.put(&narinfo_key(&built[0]), changed.as_bytes())?;
        world.nix.twin()?.substitute(&built, &base, &public(&[&other, &world.key]))?;
    }
    Ok(())
}

/// A client that remembers what the bucket has answered.
struct Remembering {
    client: NixHome,
    base: String,
    public_key: String,
}

impl Remembering {
    /// A client of the bucket of this world, which knows nothing yet.
    fn new(world: &World) -> Result<Self> {
        let base = world.target.public_base().context("a public bucket")?;
        Ok(Self { client: world.nix.twin()?, base, public_key: world.key.public.clone() })
    }

    /// Asks for a path, and takes nothing.
    fn ask(&self, path: &str) -> Result<()> {
        run(&mut self.command(&["build", "--no-link", "--dry-run", path]), LIMIT)?.ok().map(drop)
    }

    /// `nix build` of a store path, without any build.
    fn build(&self, path: &str, more: &[&str]) -> Result<Output> {
        run(self.command(&["build", "--no-link", path]).args(more), LIMIT)
    }

    fn command(&self, words: &[&str]) -> Command {
        let options =
            ["--option", "substituters", &self.base, "--option", "trusted-public-keys", &self.public_key];
        let mut command = self.client.command("nix", &[words, &options].concat());
        command.env("XDG_CACHE_HOME", self.client.dir().join("home/remembered"));
        command
    }
}

#[test]
fn a_client_that_remembers_a_path_as_absent_finds_it_with_refresh() -> Result<()> {
    for version in versions() {
        let world = World::new(version, Target::Directory(Directory::start()?))?;
        let path = world.nix.build(&samples::single(&format!("negative {version}")))?.remove(0);
        let client = Remembering::new(&world)?;
        ensure!(!client.build(&path, &[])?.status.success(), "{version}: nothing was pushed yet");
        world.larder.run(&["push", &path])?;
        let remembered = client.build(&path, &[])?;
        ensure!(!remembered.status.success(), "{version}: the client asked again within an hour");
        ok(client.build(&path, &["--refresh"])?, version)?;
        ensure!(client.client.is_valid(&path), "{version}");
    }
    Ok(())
}

#[test]
fn a_client_that_remembers_a_nar_that_has_gone_finds_the_new_one_with_refresh() -> Result<()> {
    for version in versions() {
        let world = World::new(version, Target::Directory(Directory::start()?))?;
        let path = world.nix.build(&samples::single(&format!("positive {version}")))?.remove(0);
        world.larder.run(&["push", &path])?;
        let client = Remembering::new(&world)?;
        client.ask(&path)?;
        let nar = |narinfo: &str| field(narinfo, "URL").map(str::to_owned).context("no URL");
        let old = nar(&world.narinfo(&path)?.context("no narinfo")?)?;
        world.target.delete(&old)?;
        world.larder.run(&["repair", "--yes"])?;
        ensure!(nar(&world.narinfo(&path)?.context("no narinfo")?)? != old, "a key was used again");
        let remembered = client.build(&path, &[])?;
        ensure!(!remembered.status.success(), "{version}: {}", remembered.stderr);
        ok(client.build(&path, &["--refresh"])?, version)?;
        ensure!(client.client.is_valid(&path), "{version}");
    }
    Ok(())
}

/// This is why a collection keeps NARs for as long as clients remember narinfos.
#[test]
fn a_client_that_remembers_a_narinfo_that_has_gone_takes_its_nar() -> Result<()> {
    for version in versions() {
        let world = World::new(version, Target::Directory(Directory::start()?))?;
        let path = world.nix.build(&samples::single(&format!("remembered {version}")))?.remove(0);
        world.larder.run(&["push", &path])?;
        let client = Remembering::new(&world)?;
        client.ask(&path)?;
        world.target.delete(&narinfo_key(&path))?;
        let forgetful =
            world.nix.twin()?.try_substitute(std::slice::from_ref(&path), &client.base, &world.key.public)?;
        ensure!(!forgetful.status.success(), "{version}: the path was still there");
        ok(client.build(&path, &[])?, version)?;
        ensure!(client.client.is_valid(&path), "{version}");
    }
    Ok(())
}

#[test]
fn a_second_cache_answers_where_the_first_is_damaged() -> Result<()> {
    for version in versions() {
        let bucket = Bucket::new(version, "second")?;
        // The signature covers the references. A narinfo without a hash is none: 2.8 and 2.26 then end,
        // whatever other caches have.
        for (dropped, is_overcome) in
            [("Sig: ", true), ("References: ", true), ("NarHash: ", version >= NixVersion::V2_34)]
        {
            let damaged = without_lines(&bucket.world.target, dropped)?;
            let first = damaged.public_base().context("a public bucket")?;
            let top = [bucket.links[2].clone()];
            let alone = bucket.world.nix.twin()?.try_substitute(&top, &first, &bucket.world.key.public)?;
            ensure!(!alone.status.success(), "{version}: narinfos without `{dropped}` were taken");
            let both = format!("{first} {}", bucket.base);
            let output = bucket.world.nix.twin()?.try_substitute(&top, &both, &bucket.world.key.public)?;
            ensure!(output.status.success() == is_overcome, "{version}, `{dropped}`: {}", output.stderr);
        }
    }
    Ok(())
}

/// A copy of a bucket whose narinfos lack the lines that begin so.
fn without_lines(target: &Target, dropped: &str) -> Result<Target> {
    let copy = Target::Directory(Directory::start()?);
    for key in target.list()?.into_keys() {
        let mut bytes = target.get(&key)?.context("no object")?;
        if key.ends_with(".narinfo") {
            let text = String::from_utf8(bytes)?;
            let kept = text.split_inclusive('\n').filter(|line| !line.starts_with(dropped));
            bytes = kept.collect::<String>().into_bytes();
        }
        copy.put(&key, &bytes)?;
    }
    Ok(copy)
}

#[test]
fn a_query_of_available_packages_shows_what_the_bucket_has() -> Result<()> {
    for version in versions() {
        let bucket = Bucket::new(version, "status")?;
        let other = samples::single(&format!("status {version}"));
        for (expression, status) in [(&bucket.expression, "--S"), (&other, "---")] {
            let file = bucket.world.nix.dir().join("home/status.nix");
            std::fs::write(&file, expression)?;
            let file = file.display().to_string();
            let args = ["-f", &file, "-qa", "--status", "--option", "substituters", &bucket.base];
            let output = ok(run(&mut bucket.world.nix.command("nix-env", &args), LIMIT)?, version)?;
            // The bucket says `WantMassQuery`, without which Nix would not ask.
            ensure!(output.stdout.starts_with(status), "{version}: {}", output.stdout);
        }
    }
    Ok(())
}
