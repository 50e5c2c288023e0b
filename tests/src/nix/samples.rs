//! Expressions to build. All builders are `/bin/sh`; nothing needs a network. A `tag` makes derivations of a test's own.

const HEAD: &str = r#"
let
  tag = "@TAG@";
  mk = name: script: extra: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    args = [ "-ec" script ];
    inherit tag;
  } // extra);
"#;

fn with_head(tag: &str, body: &str) -> String {
    format!("{HEAD}{body}").replace("@TAG@", tag)
}

/// A program that runs and its closure: `lib` refers to itself, `app` to `lib` and `data`. `nix-build` gives `app`.
/// The program prints `hello from TAG`.
pub fn app(tag: &str) -> String {
    with_head(
        tag,
        r#"
  data = mk "data" "echo $tag > $out" { };
  lib = mk "lib" "mkdir -p $out/lib; echo self=$out > $out/lib/conf; ln -s conf $out/lib/link" { };
  app = mk "app" ''
    mkdir -p $out/bin
    printf '#!/bin/sh\n# uses %s\nread x < %s && echo "hello from $x"\n' ${lib}/lib/conf ${data} > $out/bin/hello
    chmod +x $out/bin/hello
  '' { };
in app
"#,
    )
}

/// One of everything: a set with `app` (see [`app`]), `multi` (outputs `out`, `dev` and `doc`; `dev` refers to `out`), `same1` and
/// `same2` (equal contents under two names), `fixed` (a fixed-output path), `user` (refers to `fixed`, `multi.dev` and `same1`), `empty` (an
/// empty directory), `odd` (names, modes and symlinks that are hard on a NAR writer).
pub fn assorted(tag: &str) -> String {
    with_head(
        tag,
        r#"
  data = mk "data" "echo $tag > $out" { };
  lib = mk "lib" "mkdir -p $out/lib; echo self=$out > $out/lib/conf; ln -s conf $out/lib/link" { };
  app = mk "app" ''
    mkdir -p $out/bin
    printf '#!/bin/sh\n# uses %s\nread x < %s && echo "hello from $x"\n' ${lib}/lib/conf ${data} > $out/bin/hello
    chmod +x $out/bin/hello
  '' { };
  multi = mk "multi" "mkdir $out $dev $doc; echo $tag > $out/a; echo $out > $dev/b; echo doc > $doc/c" {
    outputs = [ "out" "dev" "doc" ];
  };
  same = name: mk name "mkdir $out; echo equal contents of $tag > $out/file" { };
  same1 = same "same1";
  same2 = same "same2";
  fixed = mk "fixed" "echo fixed > $out" {
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "fixed\n";
  };
  user = mk "user" "echo ${fixed} ${multi.dev} ${same1} $tag > $out" { };
  empty = mk "empty" "mkdir $out" { };
  odd = mk "odd" ''
    mkdir -p $out/'a b' $out/empty $out/.hidden; echo x > $out/'a b'/x; echo y > $out/'~'; : > $out/nothing
    echo z > $out/run; chmod +x $out/run; ln -s /nonexistent/target $out/dangling; ln -s 'a b' $out/A
    echo u > $out/"$(printf 'umlaut-\303\244')"; for i in 1 2 3 4 5 6 7 8 9; do printf %*s $i "" > $out/len$i; done
  '' { };
in { inherit app multi same1 same2 fixed user empty odd; }
"#,
    )
}

/// A derivation with the outputs `out`, `dev` and `doc`; `dev` refers to `out`.
pub fn multi(tag: &str) -> String {
    with_head(
        tag,
        r#"
in mk "multi" "mkdir $out $dev $doc; echo $tag > $out/a; echo $out > $dev/b; echo doc > $doc/c" {
  outputs = [ "out" "dev" "doc" ];
}
"#,
    )
}

/// A single small file.
pub fn single(tag: &str) -> String {
    with_head(tag, r#"in mk "single" "echo single $tag > $out" { }"#)
}

/// One file of this number of MiB of random bytes (other bytes in each store that builds it).
pub fn big(tag: &str, mib: u32) -> String {
    with_head(tag, r#"in mk "big" "head -c ${toString (@MIB@ * 1024 * 1024)} /dev/urandom > $out" { }"#)
        .replace("@MIB@", &mib.to_string())
}

/// Six paths: `base`, `left` and `right` that refer to it, `top` that refers to all, to itself and to `large`, a file of so
/// many MiB that does not compress; and `alike`, whose contents are those of `base`. `nix-build` gives `top`.
pub fn layered(tag: &str, mib: u32) -> String {
    with_head(
        tag,
        r#"
  base = mk "base" "echo base of $tag > $out" { };
  alike = mk "alike" "echo base of $tag > $out" { };
  left = mk "left" "echo ${base} left > $out" { };
  right = mk "right" "mkdir $out; echo ${base} right > $out/file" { };
  large = mk "large" "head -c ${toString (@MIB@ * 1024 * 1024)} /dev/urandom > $out" { };
  top = mk "top" "echo ${left} ${right} ${alike} ${large} $out > $out" { };
in top
"#,
    )
    .replace("@MIB@", &mib.to_string())
}

/// Two outputs of equal contents: a file of this number of MiB.
pub fn equal(tag: &str, mib: u32) -> String {
    with_head(
        tag,
        r#"same = name: mk name "mkdir $out; yes equal contents of $tag | head -c ${toString (@MIB@ * 1024 * 1024)} > $out/file" { };
in { same1 = same "same1"; same2 = same "same2"; }"#,
    )
    .replace("@MIB@", &mib.to_string())
}

/// This number of tiny outputs without references.
pub fn tiny(tag: &str, count: u32) -> String {
    with_head(
        tag,
        r#"in builtins.genList (i: mk "tiny-${toString i}" "echo ${toString i} $tag > $out" { }) @COUNT@"#,
    )
    .replace("@COUNT@", &count.to_string())
}

/// This number of outputs, each of which refers to the one before: the closure of the last is all of them.
pub fn chain(tag: &str, count: u32) -> String {
    with_head(
        tag,
        r#"
  link = i: mk "link-${toString i}" "echo ${toString i} $tag ${if i == 0 then "" else link (i - 1)} > $out" { };
in link (@COUNT@ - 1)
"#,
    )
    .replace("@COUNT@", &count.to_string())
}

/// This number of tops. Each refers to three of so many libraries, which refer to others, so that the closures overlap.
pub fn overlapping(tag: &str, tops: u32, libraries: u32) -> String {
    with_head(
        tag,
        r#"
  lib = i: mk "lib-${toString i}"
    "echo ${toString i} $tag ${if i == 0 then "" else "${lib (i / 2)} ${lib (i / 3)}"} > $out" { };
  top = i: mk "top-${toString i}"
    "echo ${toString i} $tag ${lib (@LIBS@ - 1 - i)} ${lib (i + 3)} ${lib (i / 2 + 7)} > $out" { };
in builtins.genList top @TOPS@
"#,
    )
    .replace("@TOPS@", &tops.to_string())
    .replace("@LIBS@", &libraries.to_string())
}

/// A floating content-addressed derivation (needs `experimental-features = ca-derivations`) and one that refers to it.
pub fn content_addressed(tag: &str) -> String {
    with_head(
        tag,
        r#"
  ca = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  base = mk "ca-base" "mkdir $out; echo $tag > $out/file" ca;
in mk "ca-user" "echo ${base} > $out" ca
"#,
    )
}

/// Floating content-addressed derivations: `ca-top` refers to `ca-mid`, which refers to `ca-base`, and needs `ca-source` for its
/// build alone. `note` is part of `ca-base` and does not change its contents. `nix-build` gives `ca-top`.
pub fn ca_chain(tag: &str, note: &str) -> String {
    with_head(
        tag,
        r#"
  ca = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  base = mk "ca-base" "mkdir $out; echo $tag > $out/file" (ca // { note = "@NOTE@"; });
  mid = mk "ca-mid" "mkdir $out $dev; echo ${base} > $out/file; echo dev of $tag > $dev/file" (ca // { outputs = [ "out" "dev" ]; });
  source = mk "ca-source" "echo source of $tag > $out" ca;
in mk "ca-top" "read x < ${source}; echo ${mid} ${mid.dev} > $out" ca
"#,
    )
    .replace("@NOTE@", note)
}

/// A floating content-addressed derivation without inputs.
pub fn ca_single(tag: &str) -> String {
    with_head(
        tag,
        r#"in mk "ca-single" "echo $tag > $out" {
  __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
}"#,
    )
}

/// A build of this name that says `building TAG` and 400 lines more.
pub fn talking(tag: &str, name: &str) -> String {
    let script = "echo building $tag; i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line $i of the log; done; echo $tag > $out";
    with_head(tag, &format!(r#"in mk "{name}" "{script}" {{ }}"#))
}

/// A build that fails.
pub fn failing(tag: &str) -> String {
    with_head(tag, r#"in mk "failing" "echo no $tag >&2; exit 1" { }"#)
}
