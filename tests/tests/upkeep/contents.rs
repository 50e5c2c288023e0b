//! `larder verify --data`: what other programs wrote is read in every compression, and a damaged NAR is found.

use anyhow::{Context, Result, ensure};
use larder_tests::need::{Requirement, must, need};
use larder_tests::nix::{NixVersion, narinfo_key, versions};
use larder_tests::process::{Child, Output};
use larder_tests::proxy::{Fault, Proxy, Record};
use larder_tests::servers::{Directory, Kind};
use larder_tests::world::{BUCKET, Target, World, field};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::time::Duration;

/// The compressions that Nix 2.8, 2.26 and 2.34 all write and read.
const COMPRESSIONS: [&str; 8] = ["none", "xz", "zstd", "bzip2", "gzip", "br", "lz4", "lzip"];
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Outputs of 64 KiB of random bytes and 100 KiB of numbers each.
fn outputs(count: usize) -> String {
    format!(
        r#"builtins.genList (n: derivation {{
  name = "contents-${{toString n}}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  PATH = "/usr/bin:/bin";
  args = [ "-ec" "head -c 65536 /dev/urandom > $out; seq 1 20000 >> $out" ];
}}) {count}"#
    )
}

/// A world whose bucket is filled by Nix.
struct House(World);

impl House {
    /// With a directory.
    fn in_directory(version: NixVersion) -> Result<Self> {
        Ok(Self(World::new(version, Target::Directory(Directory::start()?))?))
    }

    /// With a server into which `nix copy` can write without signed requests.
    fn on_server(version: NixVersion, kind: Kind) -> Result<Self> {
        let server = kind.start_open()?;
        server.make_open_bucket(BUCKET)?;
        Ok(Self(World::new(version, Target::Server(server))?))
    }

    /// With a directory that the newest Nix of this machine has filled; and the paths, one for each compression.
    fn filled() -> Result<Option<(Self, Vec<String>)>> {
        let Some(version) = versions().pop() else { return Ok(None) };
        let house = Self::in_directory(version)?;
        let paths = house.fill(COMPRESSIONS.len())?;
        Ok(Some((house, paths)))
    }

    /// The same with 24 paths in MinIO, and a proxy before it.
    fn behind_proxy() -> Result<Option<(Self, Vec<String>, Proxy)>> {
        let (Some(version), true) = (versions().pop(), Kind::MinIo.is_here()) else { return Ok(None) };
        let mut house = Self::on_server(version, Kind::MinIo)?;
        let paths = house.fill(24)?;
        let Target::Server(server) = &house.0.target else { return Ok(None) };
        let proxy = Proxy::start(&server.endpoint())?;
        house.0.larder.use_server_at(&**server, &proxy.endpoint(), BUCKET)?;
        Ok(Some((house, paths, proxy)))
    }

    /// Builds paths, and copies them with `nix copy`, each with another compression.
    fn fill(&self, count: usize) -> Result<Vec<String>> {
        let paths = self.0.nix.build(&outputs(count))?;
        let base = match &self.0.target {
            Target::Directory(directory) => directory.file_url(),
            Target::Server(server) => server.public_base(BUCKET).context("a public bucket")?,
        };
        for (number, compression) in COMPRESSIONS.iter().enumerate() {
            let paths: Vec<_> = paths.iter().skip(number).step_by(COMPRESSIONS.len()).cloned().collect();
            let secret = self.0.key.secret_file.display();
            self.0.nix.copy_to(&format!("{base}?compression={compression}&secret-key={secret}"), &paths)?;
        }
        Ok(paths)
    }

    fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.0.target.get(key)?.context("an object is gone")
    }

    /// The value of a field in the narinfo of a path.
    fn field(&self, path: &str, name: &str) -> Result<String> {
        let narinfo = self.0.narinfo(path)?.context("no narinfo")?;
        Ok(field(&narinfo, name).with_context(|| format!("no {name} in {narinfo}"))?.to_owned())
    }

    /// Replaces the value of a field in the narinfo of a path. The fields that tests change are not signed.
    fn set_field(&self, path: &str, name: &str, value: &str) -> Result<()> {
        let narinfo = self.0.narinfo(path)?.context("no narinfo")?;
        let old = format!("{name}: {}\n", self.field(path, name)?);
        let narinfo = narinfo.replace(&old, &format!("{name}: {value}\n"));
        self.0.target.put(&narinfo_key(path), narinfo.as_bytes())
    }

    /// Flips a bit in the middle of the NAR of a path.
    fn flip(&self, path: &str) -> Result<()> {
        let key = self.field(path, "URL")?;
        let mut nar = self.get(&key)?;
        let middle = nar.len() / 2;
        nar[middle] ^= 0x10;
        self.0.target.put(&key, &nar)
    }

    /// Writes another NAR object for a path.
    fn set_nar(&self, path: &str, nar: &[u8]) -> Result<()> {
        self.0.target.put(&self.field(path, "URL")?, nar)?;
        self.set_field(path, "FileSize", &nar.len().to_string())
    }

    fn verify(&self, args: &[&str]) -> Result<Output> {
        let mut all = vec!["verify", "--json", "--key", &self.0.key.public];
        all.extend(args);
        self.0.larder.try_run(&all)
    }

    /// Verifies what Nix reads of the NAR of a path.
    fn nix_reads(&self, path: &str) -> Result<bool> {
        let Target::Directory(directory) = &self.0.target else {
            anyhow::bail!("this bucket is no directory")
        };
        let output =
            self.0.nix.verify_cache(&directory.file_url(), &self.0.key.public, &[path.to_owned()])?;
        Ok(output.status.success())
    }
}

/// The base names with faults of a kind, all faults being of that kind.
fn faults(output: &Output, kind: &str) -> Result<BTreeSet<String>> {
    let lines = output.lines().into_iter().map(|line| serde_json::from_str::<serde_json::Value>(&line));
    let lines = lines.collect::<Result<Vec<_>, _>>()?;
    let faults = lines.iter().filter(|line| line["type"] == "fault");
    let name = |fault: &serde_json::Value| {
        ensure!(fault["kind"] == kind, "another fault: {fault}");
        Ok(fault["object"].as_str().context("no object")?.to_owned())
    };
    faults.map(name).collect()
}

fn names(paths: &[String]) -> BTreeSet<String> {
    paths.iter().filter_map(|path| Some(path.rsplit_once('/')?.1.to_owned())).collect()
}

/// The number in `read N NARs`.
fn read(output: &Output) -> Result<usize> {
    let said = output.stderr.lines().find_map(|line| line.split_once("read ")?.1.split_once(" NAR"));
    said.and_then(|(count, _)| count.parse().ok()).with_context(|| format!("no count: {}", output.stderr))
}

#[track_caller]
fn assert_clean(output: &Output, nars: usize) -> Result<()> {
    assert_eq!(output.code(), 0, "{}{}", output.stdout, output.stderr);
    assert_eq!(faults(output, "")?, BTreeSet::new());
    assert_eq!(read(output)?, nars, "{}", output.stderr);
    Ok(())
}

#[test]
fn a_bucket_that_nix_filled_in_every_compression_is_clean_until_a_bit_flips() -> Result<()> {
    let mut houses = Vec::new();
    for version in versions() {
        houses.push(House::in_directory(version)?);
    }
    if let Some(version) = versions().pop() {
        for kind in [Kind::MinIo, Kind::SeaweedFs].into_iter().filter(|kind| kind.is_here()) {
            houses.push(House::on_server(version, kind)?);
        }
    }
    for house in houses {
        let paths = house.fill(COMPRESSIONS.len())?;
        for (path, compression) in paths.iter().zip(COMPRESSIONS) {
            assert_eq!(house.field(path, "Compression")?, compression);
        }
        assert_clean(&house.verify(&["--data"])?, paths.len())?;
        paths.iter().try_for_each(|path| house.flip(path))?;
        // The structure is as before.
        assert_eq!(house.verify(&[])?.code(), 0);
        let output = house.verify(&["--data"])?;
        assert_eq!(output.code(), 3, "{}", output.stderr);
        assert_eq!(faults(&output, "nar-contents")?, names(&paths), "Nix {}", house.0.nix.version());
    }
    Ok(())
}

#[test]
fn a_nar_in_another_compression_than_its_narinfo_says_is_found_as_nix_finds_it() -> Result<()> {
    let Some((house, paths)) = House::filled()? else { return Ok(()) };
    let gzip = &paths[4];
    assert!(house.nix_reads(gzip)?);
    // The key of a NAR in gzip ends with `.nar`, which tells nothing. Nix 2.8 reads it still; later versions do not.
    house.set_field(gzip, "Compression", "lz4")?;
    assert_eq!(house.nix_reads(gzip)?, house.0.nix.version() == NixVersion::V2_8);
    let output = house.verify(&["--data"])?;
    assert_eq!(output.code(), 3);
    assert_eq!(faults(&output, "nar-contents")?, names(std::slice::from_ref(gzip)));
    assert!(output.stdout.contains("it does not begin as lz4, but as gzip"), "{}", output.stdout);
    Ok(())
}

#[test]
fn several_frames_are_read_and_bombs_are_not() -> Result<()> {
    let Some((house, paths)) = House::filled()? else { return Ok(()) };
    let path = &paths[2];
    let nar = zstd::decode_all(&*house.get(&house.field(path, "URL")?)?)?;
    // As `pzstd` and `zstd --adapt` write it: several frames, and one without contents first.
    let (one, other) = nar.split_at(nar.len() / 3);
    let size = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    let frames = [&size[..], &zstd::encode_all(one, 1)?, &zstd::encode_all(other, 9)?].concat();
    house.set_nar(path, &frames)?;
    assert!(house.nix_reads(path)?);
    let output = house.verify(&["--data"])?;
    // No FileHash fits any more, which hurts no client of Nix.
    assert_eq!(output.code(), 0, "{}", output.stdout);
    assert_eq!(faults(&output, "file-hash")?, names(std::slice::from_ref(path)));

    // 2 GiB of zeros, and a window of 2 GiB.
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 30), 1)?.repeat(2);
    let mut wide = zstd::encode_all(&nar[..], 1)?;
    ensure!(wide[4] & 0x20 == 0, "the frame has no descriptor of its window");
    wide[5] = (31 - 10) << 3;
    for (hostile, reason) in [(bomb, "is longer than"), (wide, "cannot be decompressed")] {
        house.set_nar(path, &hostile)?;
        let output = house.verify(&["--data"])?;
        assert_eq!(output.code(), 3, "{}{}", output.stdout, output.stderr);
        assert_eq!(faults(&output, "nar-contents")?, names(std::slice::from_ref(path)));
        assert!(output.stdout.contains(reason), "{}", output.stdout);
        assert!(output.took < Duration::from_secs(20), "{:?}", output.took);
    }
    Ok(())
}

#[test]
fn a_killed_verification_continues_and_a_finished_one_begins_again() -> Result<()> {
    let Some((house, paths, proxy)) = House::behind_proxy()? else { return Ok(()) };
    let is_nar = |record: &Record| record.method == "GET" && record.path.contains("/nar/");
    let args = ["verify", "--key", &house.0.key.public, "--data", "--max-rate", "400K"];
    let mut child = Child::spawn(&house.0.larder.command(&args)?, &house.0.larder.dir().join("verify.log"))?;
    child.wait_until(Duration::from_secs(60), || proxy.count(is_nar) >= 12)?;
    child.signal(Signal::KILL)?;
    child.wait(Duration::from_secs(60))?;
    proxy.clear_log();

    let output = house.verify(&["--data"])?;
    assert!(output.stderr.contains("were read by an earlier run"), "{}", output.stderr);
    let again = read(&output)?;
    assert!((1..=paths.len() - 5).contains(&again), "{again} of {} NARs", paths.len());
    let asked: BTreeSet<_> =
        proxy.log().into_iter().filter(|record| is_nar(record)).map(|record| record.path).collect();
    assert_eq!(asked.len(), again);
    assert_clean(&house.verify(&["--data"])?, paths.len())
}

#[test]
fn a_damaged_nar_is_found_again_after_an_interruption() -> Result<()> {
    let Some((house, paths, proxy)) = House::behind_proxy()? else { return Ok(()) };
    house.flip(&paths[1])?;
    let broken = format!("/{BUCKET}/{}", house.field(&paths[0], "URL")?);
    proxy.set_fault(move |record| (record.path == broken).then_some(Fault::Status(500)));
    for _ in 0..2 {
        // What the server does not hand out is unknown, and no fault. What was found damaged is read again.
        let output = house.verify(&["--data"])?;
        assert_eq!(output.code(), 7, "{}", output.stderr);
        assert!(output.stderr.contains("the contents of 1 NAR are unknown"), "{}", output.stderr);
        assert_eq!(faults(&output, "nar-contents")?, names(&paths[1..2]));
    }
    proxy.clear_fault();
    let output = house.verify(&["--data"])?;
    assert_eq!((output.code(), read(&output)?), (3, 2), "{}", output.stderr);
    assert_eq!(faults(&output, "nar-contents")?, names(&paths[1..2]));
    Ok(())
}

#[test]
fn the_rate_of_the_download_is_kept() -> Result<()> {
    let Some((house, paths)) = House::filled()? else { return Ok(()) };
    let size = |path: &String| Ok(house.field(path, "FileSize")?.parse::<u64>()?);
    let sizes = paths.iter().map(size).collect::<Result<Vec<_>>>()?;
    let (all, most) = (sizes.iter().sum::<u64>(), sizes.iter().copied().max().unwrap_or_default());
    let output = house.verify(&["--data", "--max-rate", "256K"])?;
    assert_clean(&output, paths.len())?;
    // The last NAR begins when the others were paid for.
    let least = (all - most) as f64 / 262_144.0;
    let took = output.took.as_secs_f64();
    assert!((least..2.0 * least + 5.0).contains(&took), "{took} s for {all} bytes");
    Ok(())
}

#[test]
fn a_month_of_daily_parts_reads_each_nar_once() -> Result<()> {
    let Some(library) = must(need(Requirement::FakeTime)) else { return Ok(()) };
    let Some((mut house, paths)) = House::filled()? else { return Ok(()) };
    paths.iter().try_for_each(|path| house.flip(path))?;
    let mut found = Vec::new();
    for day in 0..30 {
        house.0.larder.shift_clock(&library, day);
        let output = house.verify(&["--data=1/30"])?;
        let today = faults(&output, "nar-contents")?;
        assert_eq!(today.len(), read(&output)?);
        found.extend(today);
    }
    assert_eq!(found.len(), paths.len());
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), names(&paths));
    Ok(())
}

#[test]
fn only_young_nars_are_read_when_that_is_asked() -> Result<()> {
    let Some((house, paths)) = House::filled()? else { return Ok(()) };
    for path in &paths[3..] {
        ensure!(house.0.target.make_older(&house.field(path, "URL")?, 10 * DAY)?, "its age is fixed");
    }
    assert_clean(&house.verify(&["--data", "--data-since", "7d"])?, 3)?;
    assert_clean(&house.verify(&["--data", "--data-since", "11d"])?, paths.len())
}
