{
  lib,
  rustPlatform,
}:

rustPlatform.buildRustPackage {
  pname = "larder";
  version = (lib.importTOML ../Cargo.toml).workspace.package.version;

  src = lib.fileset.toSource {
    root = ../.;
    # The workspace names `tests` as a member, so cargo wants its manifest and sources even where they are not built.
    fileset = lib.fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../hook
      ../uploader
      ../tests
      # The units that `larder setup` writes, and the files that the unit tests compare with.
      ../docs/configuration.md
      ../nix/units.json
      ../nix/tests/keys.json
      ../nix/tests/urls.json
    ];
  };

  cargoLock.lockFile = ../Cargo.lock;

  # The hook is linked as everything else here. A static one starts a millisecond sooner, but wants a Rust tool chain for
  # musl, which is not built for everybody; and on NixOS nothing else speaks for it, since the system keeps its
  # libraries. `larder setup` keeps them from garbage collection where it copies this one.

  # Both binaries, `larder` and `larder-hook`; nothing of the integration crate.
  cargoBuildFlags = [
    "--package=larder"
    "--package=larder-hook"
  ];

  # Unit tests only: the integration tests run Nix daemons and S3 servers.
  cargoTestFlags = [
    "--package=larder"
    "--package=larder-hook"
    "--lib"
  ];

  # They talk to scripted servers on the loopback device.
  __darwinAllowLocalNetworking = true;

  meta = {
    description = "Signs Nix store paths and pushes them into an S3-compatible bucket that stock Nix clients read";
    license = with lib.licenses; [
      asl20
      mit
    ];
    mainProgram = "larder";
    platforms = lib.platforms.linux ++ lib.platforms.darwin;
  };
}
