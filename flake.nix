{
  description = "Signs Nix store paths and pushes them into an S3-compatible bucket that stock Nix clients read";

  # Pinned by branch only: there is no flake.lock yet. Cargo.lock asks for a recent rustc, hence the unstable branch.
  # `nix flake lock` pins the revision.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      # As far as the nixpkgs in use has them.
      systems = builtins.filter (system: nixpkgs.legacyPackages ? ${system}) [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      forAllSystems = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
    in
    {
      packages = forAllSystems (pkgs: rec {
        larder = pkgs.callPackage ./nix/package.nix { };
        default = larder;
      });

      overlays.default = final: _prev: {
        larder = final.callPackage ./nix/package.nix { };
      };

      # Building the package runs its unit tests.
      checks = forAllSystems (pkgs: {
        package = self.packages.${pkgs.stdenv.hostPlatform.system}.larder;
      });

      devShells = forAllSystems (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ self.packages.${pkgs.stdenv.hostPlatform.system}.larder ];
          packages = [
            pkgs.clippy
            pkgs.rust-analyzer
            pkgs.rustfmt
          ];
        };
      });

      formatter = forAllSystems (pkgs: pkgs.nixfmt-tree);
    };
}
