//! `docs/urls.md` knows every question of real clients, and what the bucket answers.

mod table;

use anyhow::{Context, Result, ensure};
use larder::format::cache_path::is_cache_path;
use larder::format::object_kind::OWN;
use larder_tests::need::need;
use larder_tests::nix::{NixVersion, samples, versions};
use larder_tests::process::{Output, clean_command, run};
use larder_tests::proxy::Proxy;
use larder_tests::servers::{Directory, Kind};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use table::{Asks, Row};

use super::world::{Target, World};

const LIMIT: Duration = Duration::from_secs(120);

/// Whether a command needs an empty store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Empty,
    AsItIs,
}

use Store::{AsItIs, Empty};

/// How a command ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Well,
    Badly,
    /// Well, or by a signal: some versions of `nix-store` do not expect another store than their own.
    Anyhow,
}

use End::{Anyhow, Badly, Well};

/// The commands: the store before, how the command ends, and its words. `@` begins what the test fills in.
const COMMANDS: &[(Store, End, &str)] = &[
    (Empty, Well, "nix store ping --store @URL"),
    (AsItIs, Well, "nix path-info --store @URL @APP"),
    (AsItIs, Badly, "nix path-info --store @URL @ABSENT"),
    (AsItIs, Well, "nix path-info -r --json --store @URL @APP"),
    (AsItIs, Well, "nix store ls -R --store @URL @APP"),
    (AsItIs, Well, "nix store cat --store @URL @APP/bin/hello"),
    (AsItIs, Well, "nix store dump-path --store @URL @DATA"),
    (AsItIs, Well, "nix store verify -r --store @URL @APP"),
    (AsItIs, Well, "nix store diff-closures --store @URL @OLD @APP"),
    (AsItIs, Well, "nix why-depends --store @URL @APP @DATA"),
    (AsItIs, Anyhow, "nix-store --store @URL -q --references @APP"),
    (AsItIs, Badly, "nix log --store @URL @APP"),
    (AsItIs, Badly, "nix log --store @URL @DRV"),
    (AsItIs, Well, "nix log --store @URL @TALKS"),
    (Empty, Well, "nix build --no-link --file @APP.nix"),
    (AsItIs, Well, "nix store verify -r @APP --substituter @URL"),
    (AsItIs, Well, "nix store copy-sigs -r --substituter @URL @APP"),
    (AsItIs, Well, "nix copy --to @URL @APP"),
    (AsItIs, Badly, "nix log @APP"),
    (Empty, Well, "nix run --file @APP.nix"),
    (Empty, Well, "nix shell --file @APP.nix --command hello"),
    (Empty, Well, "nix copy --from @URL @APP"),
    (AsItIs, Well, "nix store repair @APP"),
    (Empty, Badly, "nix copy --all --from @URL"),
    (Empty, Badly, "nix copy --derivation --from @URL @DRV"),
    (Empty, Well, "nix-store -r @APP"),
    (Empty, Well, "nix-build --dry-run @APP.nix"),
    (Empty, Well, "nix-env --profile @DIR/profile -i @APP"),
    (Empty, Well, "nix-env --profile @DIR/profile -f @APP.nix -qa --status"),
    (Empty, Well, "nix-build --no-out-link @CA.nix"),
    (Empty, Well, "nix build --no-link --file @CA.nix"),
    (AsItIs, Badly, "nix copy --to @URL --file @CA.nix"),
    (Empty, Badly, "nix copy --from @URL --eval-store auto --file @CA.nix"),
    (Empty, Well, "nix-build --no-out-link @NEW.nix"),
    (AsItIs, Badly, "nix copy --all --to @URL"),
    (AsItIs, Badly, "nix copy --to @URL?index-debug-info=true @NEW"),
    (AsItIs, Badly, "nix copy --to @URL?write-nar-listing=true @NEW"),
    (AsItIs, Badly, "nix store copy-log --to @URL @NEW"),
    (AsItIs, Badly, "nix store sign --store @URL -k @KEY @OLD"),
    (AsItIs, Well, "nix-instantiate --eval --read-write-mode --expr fetchTarball\"@URL/source.tar.gz\""),
    (AsItIs, Well, "nix-channel --add @URL/channel channel"),
    (AsItIs, Badly, "nix-channel --update"),
    (AsItIs, Badly, "nix-build --no-out-link @MIRROR.nix --option hashed-mirrors @URL"),
];

/// The world of the recorded commands: a bucket that larder has pushed to, and a store beside it.
struct Recording {
    world: World,
    proxy: Proxy,
    /// What stands for each `@` of a command, the longer names first.
    names: Vec<(&'static str, String)>,
}

impl Recording {
    fn new(version: NixVersion, target: Target) -> Result<Self> {
        let mut world = World::new(version, target)?;
        world.larder.install_hook(&mut world.nix)?;
        let base = world.target.public_base().context("a public bucket")?;
        let (host, path) = larder_tests::http::split_url(&base)?;
        let proxy = Proxy::start(&format!("http://{host}"))?;
        let url = format!("{}{}", proxy.endpoint(), path.trim_end_matches('/'));
        let app = format!("({}) // {{ meta.mainProgram = \"hello\"; }}", samples::app("urls"));
        let ca = samples::ca_chain("urls", "");
        let old = world.nix.build(&samples::app("urls of an older version"))?.remove(0);
        let built = world.nix.build(&app)?.remove(0);
        let talks = world.nix.build(&samples::talking("urls", "talks"))?.remove(0);
        world.nix.build(&ca)?;
        world.larder.run(&["flush", "--wait"])?;
        world.assert_complete(&[old.clone(), built.clone()])?;
        world.nix.unset_conf("post-build-hook")?;
        let new = world.nix.build(DEBUG_INFO)?.remove(0);
        put_sources(&world)?;

        let derivation = world.nix.nix_store(&["-q", "--deriver", &built])?.ok()?.stdout.trim().to_owned();
        let names = vec![
            ("@DATA", world.member(&built, "data")?),
            (
                "@ABSENT",
                format!("{}/00000000000000000000000000000000-absent", world.nix.store_dir().display()),
            ),
            ("@DRV", derivation),
            ("@OLD", old),
            ("@TALKS", talks),
            ("@APP.nix", file(&world, "app.nix", &app)?),
            ("@APP", built),
            ("@CA.nix", file(&world, "ca.nix", &ca)?),
            ("@NEW.nix", file(&world, "new.nix", DEBUG_INFO)?),
            ("@NEW", new),
            ("@KEY", world.nix.key_pair("other-1")?.secret_file.display().to_string()),
            ("@MIRROR.nix", file(&world, "mirror.nix", &mirror(&url))?),
            ("@DIR", world.nix.dir().join("home").display().to_string()),
            ("@URL", url.clone()),
        ];
        world.nix.set_conf("substituters", &url)?;
        world.nix.set_conf("trusted-public-keys", &world.key.public)?;
        Ok(Self { world, proxy, names })
    }

    /// Runs a command; returns what it asked.
    fn run(&mut self, store: Store, end: End, words: &str) -> Result<BTreeSet<(String, String, u16)>> {
        if store == Empty {
            self.world.nix.retire()?;
        }
        let fill = |word: &str| {
            self.names.iter().fold(word.to_owned(), |word, (name, value)| word.replace(name, value))
        };
        let words: Vec<_> = words.split(' ').map(fill).collect();
        let args: Vec<_> = words[1..].iter().map(String::as_str).collect();
        self.proxy.clear_log();
        let output = run(&mut self.world.nix.command(&words[0], &args), LIMIT)?;
        ensure_ended(&output, end)?;
        let prefix =
            larder_tests::http::split_url(&self.names.last().context("the address")?.1)?.1.to_owned();
        let asked = self.proxy.log().into_iter().map(|record| {
            let path =
                record.path.strip_prefix(&prefix).unwrap_or(&record.path).trim_start_matches('/').to_owned();
            // No question has a query: each key is the whole question.
            let query = if record.query.is_empty() { String::new() } else { format!("?{}", record.query) };
            (record.method, path + &query, record.status)
        });
        Ok(asked.collect())
    }
}

fn ensure_ended(output: &Output, end: End) -> Result<()> {
    ensure!(
        end == Anyhow || output.status.success() == (end == Well),
        "{} ended with {}\n{}{}",
        output.command,
        output.status,
        output.stdout,
        output.stderr
    );
    Ok(())
}

fn file(world: &World, name: &str, text: &str) -> Result<String> {
    let path = world.nix.dir().join("home").join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// An archive for `fetchTarball`, and something at the address of a channel. larder writes neither.
fn put_sources(world: &World) -> Result<()> {
    let dir = world.nix.dir().join("home/source");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("default.nix"), "{ }")?;
    let archive = world.nix.dir().join("home/source.tar.gz");
    let mut tar = clean_command("tar");
    run(
        tar.current_dir(world.nix.dir().join("home")).arg("-czf").args([&archive, Path::new("source")]),
        LIMIT,
    )?
    .ok()?;
    world.target.put("source.tar.gz", &std::fs::read(archive)?)?;
    world.target.put("channel", b"a channel")
}

/// A path with debug information, which nobody pushes.
const DEBUG_INFO: &str = r#"derivation {
  name = "debug"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  args = [ "-ec" "d=$out/lib/debug/.build-id/0a; mkdir -p $d; echo x > $d/00000000000000000000000000000000000000.debug; echo log" ];
}"#;

/// A file that Nix itself fetches from an address at which nothing is.
fn mirror(url: &str) -> String {
    format!(
        r#"derivation {{
  name = "fetched"; system = "builtin"; builder = "builtin:fetchurl"; url = "{url}/fetched.txt";
  outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "fetched";
}}"#
    )
}

/// The only row of a request.
fn place_of(rows: &[Row], method: &str, path: &str) -> Result<Option<usize>> {
    let places: Vec<_> = (0..rows.len()).filter(|place| rows[*place].is_asked(method, path)).collect();
    ensure!(places.len() < 2, "`{method} /{path}` is in several rows");
    Ok(places.first().copied())
}

/// Records all commands; fails where the table and the clients differ.
fn record(version: NixVersion, target: Target) -> Result<()> {
    let rows = table::rows()?;
    let mut recording = Recording::new(version, target)?;
    let keys = recording.world.target.list()?;
    let mut asked = BTreeSet::new();
    let mut faults = Vec::new();
    for (store, end, words) in COMMANDS {
        let questions = recording.run(*store, *end, words).with_context(|| format!("{version}: {words}"))?;
        for (method, path, status) in questions {
            // Shown where the test fails.
            eprintln!("{version} {words}: {method} /{path} {status}");
            let Some(place) = place_of(&rows, &method, &path)? else {
                faults.push(format!("`{words}` asks `{method} /{path}`, which the table does not know"));
                continue;
            };
            if !rows[place].answer.allows(status, keys.contains_key(&path)) {
                faults.push(format!(
                    "`{words}` asks `{method} /{path}`, and gets {status}, which the row `{}` does not say",
                    rows[place]
                ));
            }
            // The relay passes on what belongs to a cache, and nothing else.
            if method != "PUT" && is_cache_path(&path) != rows[place].is_of_a_cache {
                faults.push(format!(
                    "`{words}` asks `{method} /{path}`, about which the relay thinks otherwise"
                ));
            }
            asked.insert(place);
        }
    }
    for key in keys.keys().filter(|key| !key.starts_with(OWN)) {
        if place_of(&rows, "GET", key)?.is_none() {
            faults.push(format!("no client asks for `{key}`"));
        }
    }
    for (place, row) in rows.iter().enumerate() {
        let is_said = row.asks(version) == Asks::Recorded;
        if is_said != asked.contains(&place) {
            let said = if is_said { "`yes`, but was not asked" } else { "not `yes`, but was asked" };
            faults.push(format!("`{row}`: the column is {said}"));
        }
    }
    ensure!(faults.is_empty(), "{version}:\n{}", faults.join("\n"));
    Ok(())
}

#[test]
fn the_table_knows_every_question_of_nix_2_8() -> Result<()> {
    in_a_directory(NixVersion::V2_8)
}

#[test]
fn the_table_knows_every_question_of_nix_2_26() -> Result<()> {
    in_a_directory(NixVersion::V2_26)
}

#[test]
fn the_table_knows_every_question_of_nix_2_34() -> Result<()> {
    in_a_directory(NixVersion::V2_34)
}

fn in_a_directory(version: NixVersion) -> Result<()> {
    if need(version.requirement()).is_none() {
        return Ok(());
    }
    record(version, Target::Directory(Directory::start()?))
}

#[test]
fn the_table_holds_on_a_server() -> Result<()> {
    let Some(version) = versions().into_iter().last().filter(|_| Kind::MinIo.is_here()) else {
        return Ok(());
    };
    record(version, Target::server(Kind::MinIo)?)
}
