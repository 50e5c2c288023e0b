# Evaluates flake.nix, package.nix, default.nix and the virtual machines with stubs in place of nixpkgs.
let
  mini = import ./mini-lib.nix;
  lib = mini // {
    importTOML = file: builtins.fromTOML (builtins.readFile file);
    licenses = {
      asl20 = "Apache-2.0";
      mit = "MIT";
    };
    platforms = {
      linux = [ "linux" ];
      darwin = [ "darwin" ];
    };
    fileset = {
      unions = files: files;
      toSource = { root, fileset }: { inherit root fileset; };
    };
    optionalAttrs = condition: set: if condition then set else { };
  };
  pkgsFor =
    system:
    let
      pkgs = {
        inherit lib;
        callPackage =
          file: extra:
          let
            f = import file;
          in
          f (builtins.intersectAttrs (builtins.functionArgs f) (pkgs // extra));
        rustPlatform.buildRustPackage = arguments: {
          type = "derivation";
          name = "${arguments.pname}-${arguments.version}";
          outPath = "/package";
          inherit arguments;
        };
        stdenv.hostPlatform = {
          inherit system;
          isLinux = builtins.match ".*-linux" system != null;
        };
        mkShell = shell: { outPath = "/shell"; } // shell;
        clippy = "/clippy";
        rust-analyzer = "/rust-analyzer";
        rustfmt = "/rustfmt";
        nixfmt-tree = "/nixfmt";
        writeText = name: _: "/text/${name}";
        testers.runNixOSTest = test: {
          outPath = "/test";
          inherit test;
        };
      };
    in
    pkgs;
  legacyPackages = builtins.listToAttrs (
    map (system: {
      name = system;
      value = pkgsFor system;
    }) (import ../lib.nix).systems
  );
  flake = import ../../flake.nix;
  self = flake.outputs {
    inherit self;
    nixpkgs = { inherit lib legacyPackages; };
  };
  package = (import ../../default.nix { pkgs = legacyPackages.x86_64-linux; }).arguments;
  machines = (import ./machines.nix {
    pkgs = legacyPackages.x86_64-linux;
    inherit self;
  }).test;
in
{
  inherit (flake) description;
  flake = {
    inherit (self) packages checks formatter;
    devShells = builtins.mapAttrs (_: shells: builtins.attrNames shells) self.devShells;
    nixosModules = builtins.attrNames self.nixosModules;
    darwinModules = builtins.attrNames self.darwinModules;
    homeModules = builtins.attrNames self.homeModules;
    overlay = builtins.attrNames (self.overlays.default legacyPackages.x86_64-linux { });
  };
  modules = builtins.attrNames (import ../../default.nix { pkgs = legacyPackages.x86_64-linux; }).modules;
  package = {
    inherit (package) pname version;
    inherit (package.meta) mainProgram;
    missing = map toString (
      builtins.filter (file: !(builtins.pathExists file)) (
        package.src.fileset ++ [ package.cargoLock.lockFile ]
      )
    );
  };
  machines = {
    nodes = builtins.attrNames machines.nodes;
    script = machines.testScript;
  };
}
