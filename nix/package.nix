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
    ];
  };

  cargoLock.lockFile = ../Cargo.lock;

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
