# Without flakes: `nix-build` makes the package; `(import ./.  { }).modules` has the modules.
{
  pkgs ? import <nixpkgs> { },
}:

pkgs.callPackage ./nix/package.nix { }
// {
  modules = {
    nixos = {
      imports = [
        ./nix/modules/nixos.nix
        ./nix/modules/client.nix
        ./nix/modules/bucket.nix
      ];
    };
    darwin = ./nix/modules/darwin.nix;
    home = ./nix/modules/home.nix;
  };
}
