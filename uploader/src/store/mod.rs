//! Reading the local Nix store.
