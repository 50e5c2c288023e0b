{
  lib,
  rustPlatform,
}:

rustPlatform.buildRustPackage {
  pname = "larder";
  version = (lib.importTOML ../Cargo.toml).workspace.package.version;

  src = lib.fileset.toSource {
    root = ../.;
    # The workspace names `tests` as a member, so cargo needs its manifest and sources even if it does not build them.
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

  # The hook is linked dynamically. A static hook starts a millisecond sooner, but needs a Rust tool chain for
  # musl, which is not prebuilt everywhere. On NixOS a static hook has no other advantage, because the system keeps its
  # libraries. `larder setup` protects the libraries from garbage collection when it copies the hook.

  # Builds both programs, `larder` and `larder-hook`, without the integration tests.
  cargoBuildFlags = [
    "--package=larder"
    "--package=larder-hook"
  ];

  # Runs only the unit tests: the integration tests need Nix daemons and S3 servers.
  cargoTestFlags = [
    "--package=larder"
    "--package=larder-hook"
    "--lib"
  ];

  # The tests connect to scripted servers on the loopback interface.
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
