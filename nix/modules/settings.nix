# The options that all kinds of machines share: the package and larder's configuration.
{ lib, pkgs }:
let
  inherit (lib) mkOption types;
  atom = types.oneOf [
    types.str
    types.int
    types.bool
    (types.listOf types.str)
  ];
  text =
    description: example:
    mkOption {
      type = types.nullOr types.str;
      default = null;
      inherit description example;
    };
in
{
  package = mkOption {
    type = types.package;
    default = pkgs.larder or (pkgs.callPackage ../package.nix { });
    defaultText = lib.literalExpression "pkgs.larder";
    description = "The package with `larder` and `larder-hook`.";
  };

  # The option takes all keys that `larder config check` accepts. The keys that every set-up has are typed.
  settings = mkOption {
    default = { };
    description = "larder's configuration; `larder config check` lists all keys. It is checked when the system is built.";
    example = {
      bucket = "s3://nix-cache?endpoint=https://s3.example.org";
      exclude = [ "nixos-system-*" ];
    };
    type = types.submodule {
      freeformType = types.attrsOf atom;
      options = {
        bucket = text "Where to push: `s3://BUCKET/PREFIX?endpoint=…&region=…` or `file:///DIRECTORY`." "s3://nix-cache?endpoint=https://s3.example.org";
        public-url = text "Where clients read, if not at the bucket's own address." "https://cache.example.org";
        ca-file = text "PEM file with a certificate authority to trust besides the system's." "/etc/ssl/lan-ca.pem";
        linger = mkOption {
          type = types.addCheck types.int (seconds: seconds >= 60);
          default = 60;
          description = "Seconds for which the agent waits for more before it ends; 60 at least, so that a burst of builds does not start it for each.";
        };
        upstream-keys = mkOption {
          type = types.nullOr (types.listOf types.str);
          default = null;
          description = "Public keys; what they have signed is upstream's and not pushed. Default: cache.nixos.org's.";
        };
        trusted-keys = mkOption {
          type = types.nullOr (types.listOf types.str);
          default = null;
          description = "Public keys; what they have signed may be signed here too.";
        };
      };
    };
  };

  signingKeyFiles = mkOption {
    type = types.listOf types.str;
    default = [ ];
    example = [ "/etc/larder/key.sec" ];
    description = "Files with secret signing keys, as `larder key generate NAME` writes them. Paths as text, outside of the store. Every path is signed with each.";
  };

  credentialsFile = mkOption {
    type = types.nullOr types.str;
    default = null;
    example = "/etc/larder/credentials";
    description = "File with the bucket's credentials: `AWS_ACCESS_KEY_ID=…` and `AWS_SECRET_ACCESS_KEY=…`, a line each. Outside of the store.";
  };

  catchUp = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether to queue, from time to time, what was built here and the hook never saw.";
    };
    onCalendar = mkOption {
      type = types.str;
      default = "daily";
      description = "When, as `systemd.time(7)` has it.";
    };
  };

  verify = {
    enable = mkOption {
      type = types.bool;
      default = false;
      description = "Whether this machine verifies the bucket from time to time: its structure, and a thirtieth of its contents. One machine of a bucket is enough.";
    };
    onCalendar = mkOption {
      type = types.str;
      default = "daily";
      description = "When, as `systemd.time(7)` has it.";
    };
  };

  collect = {
    enable = mkOption {
      type = types.bool;
      default = false;
      description = "Whether this machine removes from the bucket what no pin and no rule (`settings.keep-within`, `settings.max-size`) keeps. One machine of a bucket is enough.";
    };
    onCalendar = mkOption {
      type = types.str;
      default = "daily";
      description = "When, as `systemd.time(7)` has it.";
    };
  };

  recheck = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether to look again, from time to time, at what larder relies on in the bucket, and to push again what clients cannot take any more.";
    };
    onCalendar = mkOption {
      type = types.str;
      default = "daily";
      description = "When, as `systemd.time(7)` has it.";
    };
  };
}
