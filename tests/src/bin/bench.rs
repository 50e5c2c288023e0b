//! Compares larder with `nix copy` on the same store and the same server, and its hook with `/bin/true`. A benchmark,
//! not a timed test: it prints figures and judges none. Run by `tests/bench`.
//!
//! Runs are interleaved, and each pair pushes into fresh buckets; what counts is the ratio of medians.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use larder_tests::bigstore::BigStore;
use larder_tests::larder::{LarderHome, binary};
use larder_tests::nix::{NixHome, NixVersion, samples};
use larder_tests::servers::{Kind, S3Server};

/// What one run of a command took.
#[derive(Clone, Copy, Debug)]
struct Cost {
    wall: f64,
    cpu: f64,
    peak_mb: f64,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rounds = match args.iter().position(|arg| arg == "--rounds") {
        Some(at) => args.get(at + 1).context("--rounds takes a number")?.parse()?,
        None => 3,
    };
    let wanted = |name: &str| {
        let names: Vec<_> = args.iter().filter(|arg| CASES.contains(&arg.as_str())).collect();
        names.is_empty() || names.iter().any(|one| *one == name)
    };
    if let Some(other) = args
        .iter()
        .find(|arg| !CASES.contains(&arg.as_str()) && *arg != "--rounds" && arg.parse::<u32>().is_err())
    {
        bail!("no case `{other}`: {}", CASES.join(", "));
    }
    println!(
        "{:<34} {:>8} {:>8} {:>8} {:>8}   ratios to `nix copy`: wall cpu peak",
        "", "wall s", "cpu s", "peak MB", "sent MB"
    );
    let version = NixVersion::V2_34;
    let store = || {
        BigStore::get(version)?.context("the realistic store is not provisioned: tests/provision usual store")
    };
    if wanted("large") {
        let store = store()?;
        compare("large, zstd", &store.nix, &store.large, "zstd", rounds)?;
    }
    if wanted("tiny") {
        let store = store()?;
        compare("1,000 tiny, zstd", &store.nix, &store.tiny, "zstd", rounds)?;
    }
    if wanted("xz") {
        let store = store()?;
        let some = about(&store, 120 << 20)?;
        compare("120 MB, larder's zstd against xz", &store.nix, &some, "xz", 1)?;
    }
    if wanted("memory") {
        memory(version)?;
    }
    if wanted("hook") {
        hook(version, rounds)?;
    }
    Ok(())
}

const CASES: [&str; 5] = ["large", "tiny", "xz", "memory", "hook"];

/// Some large paths of about so many bytes together, without their closures' weight being looked at.
fn about(store: &BigStore, bytes: u64) -> Result<Vec<String>> {
    let mut infos = store.nix.path_info(&store.large)?;
    infos.retain(|info| info.references.is_empty());
    infos.sort_by_key(|info| info.nar_size);
    let (mut sum, mut some) = (0, Vec::new());
    for info in infos {
        if sum + info.nar_size <= bytes {
            sum += info.nar_size;
            some.push(info.path);
        }
    }
    Ok(some)
}

fn compare(name: &str, nix: &NixHome, paths: &[String], theirs: &str, rounds: usize) -> Result<()> {
    let server = Kind::MinIo.start(&[])?;
    let larder = larder(nix)?;
    let (mut ours, mut others, mut sent) = (Vec::new(), Vec::new(), (0.0, 0.0));
    for round in 0..rounds {
        let (bucket, other) = (format!("ours-{round}"), format!("theirs-{round}"));
        let mut larder_push = push(&larder, &*server, &bucket, paths)?;
        let mut nix_copy = copy(nix, &*server, &other, theirs, paths)?;
        ours.push(measure(&mut larder_push)?);
        others.push(measure(&mut nix_copy)?);
        sent = (megabytes(&*server, &bucket)?, megabytes(&*server, &other)?);
        for name in [&bucket, &other] {
            empty(&*server, name)?;
        }
    }
    let (a, b) = (median(&ours), median(&others));
    row(&format!("{name}: larder"), a, sent.0, Some(b));
    row(&format!("{name}: nix copy {theirs}"), b, sent.1, None);
    Ok(())
}

fn larder(nix: &NixHome) -> Result<LarderHome> {
    let mut larder = LarderHome::new(nix)?;
    // The key's file goes with the store that made it.
    let maker = NixHome::new(nix.version())?;
    let key = maker.key_pair("bench-1")?;
    let copy = larder.dir().join("bench.sec");
    fs::copy(&key.secret_file, &copy)?;
    larder.use_keys(&[&larder_tests::nix::KeyPair { secret_file: copy, public: key.public }])?;
    larder.set_timeout(Duration::from_secs(3600));
    Ok(larder)
}

fn push(larder: &LarderHome, server: &dyn S3Server, bucket: &str, paths: &[String]) -> Result<Command> {
    let credentials = larder.dir().join("credentials");
    fs::write(
        &credentials,
        format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            server.access_key(),
            server.secret_key()
        ),
    )?;
    let address = format!("s3://{bucket}?endpoint={}&region={}", server.endpoint(), server.region());
    let set = format!("credentials-file={}", credentials.display());
    larder.run(&["--bucket", &address, "--set", &set, "init", "--create", "--private"])?;
    let mut command = larder.command(&["--bucket", &address, "--set", &set, "push"])?;
    command.args(paths);
    Ok(command)
}

/// `nix copy` by plain HTTP PUT into a bucket that anyone may write: this Nix has no signed S3.
fn copy(
    nix: &NixHome,
    server: &dyn S3Server,
    bucket: &str,
    compression: &str,
    paths: &[String],
) -> Result<Command> {
    let client = server.client();
    client.create_bucket(bucket)?;
    let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["s3:GetObject", "s3:PutObject"], "Resource": [format!("arn:aws:s3:::{bucket}/*")]},
        {"Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["s3:ListBucket"], "Resource": [format!("arn:aws:s3:::{bucket}")]},
    ]});
    client.send("PUT", &format!("/{bucket}"), &[("policy", "")], &[], policy.to_string().as_bytes())?.ok()?;
    let url = format!("{}/{bucket}?compression={compression}&parallel-compression=true", server.endpoint());
    let mut command = nix.command("nix", &["copy", "--to", &url]);
    command.args(paths);
    Ok(command)
}

fn megabytes(server: &dyn S3Server, bucket: &str) -> Result<f64> {
    Ok(server.client().list(bucket, "nar/")?.iter().map(|(_, size)| *size as f64).sum::<f64>() / 1e6)
}

fn empty(server: &dyn S3Server, bucket: &str) -> Result<()> {
    let client = server.client();
    client.list(bucket, "")?.iter().try_for_each(|(key, _)| client.delete(bucket, key))
}

/// One NAR of 4 GiB of bytes that do not compress.
fn memory(version: NixVersion) -> Result<()> {
    let mut nix = NixHome::new(version)?;
    nix.set_timeout(Duration::from_secs(900));
    let built = nix.build(&samples::big("memory", 4096))?;
    let server = Kind::MinIo.start(&[])?;
    let larder = larder(&nix)?;
    let cost = measure(&mut push(&larder, &*server, "memory", &built)?)?;
    row("one NAR of 4 GiB: larder", cost, megabytes(&*server, "memory")?, None);
    Ok(())
}

/// 100 builds with each hook.
fn hook(version: NixVersion, rounds: usize) -> Result<()> {
    let mut nix = NixHome::new(version)?;
    let larder = LarderHome::new(&nix)?;
    larder.run(&["queue", "create"])?;
    let hook = binary("larder-hook")?.display().to_string();
    nix.set_env("LARDER_CONFIG", &larder.config_file().display().to_string());
    let mut times =
        [("no hook", "", vec![]), ("/bin/true", "/bin/true", vec![]), ("larder-hook", hook.as_str(), vec![])];
    for round in 0..rounds {
        for (name, program, times) in &mut times {
            if program.is_empty() {
                nix.unset_conf("post-build-hook")?;
            } else {
                nix.set_conf("post-build-hook", program)?;
            }
            let begun = Instant::now();
            nix.build(&samples::tiny(&format!("{name} {round} {}", std::process::id()), 100))?;
            times.push(Cost { wall: begun.elapsed().as_secs_f64(), cpu: 0.0, peak_mb: 0.0 });
        }
    }
    let base = median(&times[1].2);
    for (name, _, times) in &times {
        let cost = median(times);
        println!(
            "{:<34} {:>8.2}   {:.2} x `/bin/true`",
            format!("100 builds, {name}"),
            cost.wall,
            cost.wall / base.wall
        );
    }
    Ok(())
}

/// Runs a command; processor time by the kernel's account of finished children, peak memory by its high-water mark.
fn measure(command: &mut Command) -> Result<Cost> {
    let log = tempfile::NamedTempFile::new()?;
    command.stdout(log.reopen()?).stderr(log.reopen()?).stdin(std::process::Stdio::null());
    let (before, begun) = (children_cpu()?, Instant::now());
    let mut child = command.spawn()?;
    let mut peak_mb: f64 = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let text = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak = text.lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()
        });
        peak_mb = peak_mb.max(peak.unwrap_or_default() / 1024.0);
        std::thread::sleep(Duration::from_millis(5));
    };
    let wall = begun.elapsed().as_secs_f64();
    if !status.success() {
        bail!("{command:?}: {status}\n{}", fs::read_to_string(log.path())?);
    }
    Ok(Cost { wall, cpu: children_cpu()? - before, peak_mb })
}

/// Seconds of processor time of all children that have ended, from fields 16 and 17 of `/proc/self/stat`.
fn children_cpu() -> Result<f64> {
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("/proc/self/stat");
    Ok((ticks(13)? + ticks(14)?) / TICKS_A_SECOND)
}

fn median(costs: &[Cost]) -> Cost {
    let of = |value: fn(&Cost) -> f64| {
        let mut values: Vec<_> = costs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Cost { wall: of(|cost| cost.wall), cpu: of(|cost| cost.cpu), peak_mb: of(|cost| cost.peak_mb) }
}

fn row(name: &str, cost: Cost, sent: f64, against: Option<Cost>) {
    let ratios = against.map(|other| {
        format!(
            "{:.2} {:.2} {:.2}",
            cost.wall / other.wall,
            cost.cpu / other.cpu,
            cost.peak_mb / other.peak_mb
        )
    });
    println!(
        "{name:<34} {:>8.2} {:>8.2} {:>8.0} {sent:>8.1}   {}",
        cost.wall,
        cost.cpu,
        cost.peak_mb,
        ratios.unwrap_or_default()
    );
}
