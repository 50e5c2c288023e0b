{
  description = "Signs Nix store paths and pushes them into an S3-compatible bucket that stock Nix clients read";

  # Pinned by branch only: there is no flake.lock yet. Cargo.lock asks for a recent rustc, hence the unstable branch.
  # `nix flake lock` pins the revision.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      # As far as the nixpkgs in use has them.
      systems = builtins.filter (
        system: nixpkgs.legacyPackages ? ${system}
      ) (import ./nix/lib.nix).systems;
      forAllSystems = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      larder = pkgs: self.packages.${pkgs.stdenv.hostPlatform.system}.larder;
      # The modules take the package from here, where the machine's nixpkgs has no overlay.
      withPackage = module: {
        imports = [
          module
          (
            { lib, pkgs, ... }:
            {
              services.larder.package = lib.mkDefault (larder pkgs);
            }
          )
        ];
      };
      # Each module by itself, too: a machine that only substitutes needs nothing of the rest.
      client = {
        imports = [
          ./nix/modules/client.nix
          (
            { lib, pkgs, ... }:
            {
              services.larder.client.package = lib.mkDefault (larder pkgs);
            }
          )
        ];
      };
    in
    {
      packages = forAllSystems (pkgs: rec {
        larder = pkgs.callPackage ./nix/package.nix { };
        default = larder;
      });

      overlays.default = final: _prev: {
        larder = final.callPackage ./nix/package.nix { };
      };

      nixosModules = {
        larder = withPackage ./nix/modules/nixos.nix;
        inherit client;
        bucket = ./nix/modules/bucket.nix;
        default = {
          imports = [
            self.nixosModules.larder
            client
            ./nix/modules/bucket.nix
          ];
        };
      };

      darwinModules.default = withPackage ./nix/modules/darwin.nix;

      homeModules.default = withPackage ./nix/modules/home.nix;

      # Building the package runs its unit tests. The machines are virtual ones, for Linux.
      checks = forAllSystems (
        pkgs:
        {
          package = larder pkgs;
        }
        // nixpkgs.lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux {
          machines = import ./nix/tests/machines.nix { inherit pkgs self; };
        }
      );

      devShells = forAllSystems (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ (larder pkgs) ];
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
