# services.larder.client: a machine that substitutes paths from caches, and works while they are unavailable.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    mkDefault
    mkEnableOption
    mkIf
    mkMerge
    mkOption
    types
    ;
  larder = import ../lib.nix;
  cfg = config.services.larder.client;
  caches = builtins.attrValues cfg.caches;
  keys = lib.concatMap (cache: cache.publicKeys) caches;
  # The URL at which Nix reads a cache: that of the relay, or the cache's own.
  address =
    name: cache:
    let
      url = if cfg.relay.enable then "http://${cfg.relay.address}/${name}" else cache.url;
    in
    if cache.priority == null then
      url
    else
      larder.withParameter url "priority=${toString cache.priority}";
  urls = lib.mapAttrsToList address cfg.caches;
  # In units, a per cent sign begins a specifier.
  unitArgument = text: builtins.replaceStrings [ "%" ] [ "%%" ] (lib.escapeShellArg text);
  units = larder.unit {
    bin = "${cfg.package}/bin";
    of = "client-units";
    caches = builtins.concatStringsSep " " (
      lib.mapAttrsToList (name: cache: unitArgument "${name}=${cache.url}") cfg.caches
    );
    urls = lib.concatMapStringsSep " " (url: "--url ${unitArgument url}") urls;
  };
  faults = larder.keyFaults keys ++ larder.urlFaults (map (cache: cache.url) caches);
  fragment = "/run/larder/substituters.conf";
in
{
  options.services.larder.client = {
    enable = mkEnableOption "substituting from caches that may be away";

    # Settings of the units of the relay and of the guard.
    inherit (import ./settings.nix { inherit lib pkgs; }) package;

    caches = mkOption {
      default = { };
      example = {
        lan = {
          url = "http://cache.lan:8333/nix-cache";
          publicKeys = [ "cache.lan-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
        };
      };
      description = "The caches, by names of your choice.";
      type = types.attrsOf (
        types.submodule {
          options = {
            url = mkOption {
              type = types.str;
              description = "Where it is read: `http://…`, `https://…`, `s3://…` or `file:///…`.";
            };
            publicKeys = mkOption {
              type = types.listOf types.str;
              description = "The keys that sign it, as `larder key public FILE` prints them.";
            };
            priority = mkOption {
              type = types.nullOr types.int;
              default = null;
              description = "Its place in the order of caches, lower first; cache.nixos.org has 40. Default: what the cache itself says.";
            };
          };
        }
      );
    };

    connectTimeout = mkOption {
      type = types.int;
      default = 3;
      description = "Seconds to wait for a connection, to any cache.";
    };

    stalledTimeout = mkOption {
      type = types.int;
      default = 15;
      description = "Seconds for which a download may stand still, from any cache; Nix's own default is 300.";
    };

    downloadAttempts = mkOption {
      type = types.int;
      default = 3;
      description = "How often a download is tried, from any cache; Nix's own default is 5. Between the attempts Nix waits, longer each time.";
    };

    negativeTtl = mkOption {
      type = types.int;
      default = 600;
      description = "Seconds for which Nix remembers that a path was absent; its own default is 3600.";
    };

    relay = {
      enable = mkEnableOption "reading the caches through a relay on this machine. It says of a cache that is away that it has nothing, after seconds and once for all of Nix's processes. Needed with Nix 2.8.0, which fails builds otherwise; it runs while it is used";
      address = mkOption {
        type = types.str;
        default = "127.0.0.1:8390";
        description = "Where it listens.";
      };
    };

    guard = {
      enable = mkEnableOption "taking caches that cannot be reached out of Nix's configuration until they can be reached again, for machines that travel. The daemon reads its configuration when it starts, so it is restarted when that changes; builds that are running go on";
      interval = mkOption {
        type = types.str;
        default = "1min";
        description = "How often to look, as `systemd.time(7)` has spans.";
      };
    };
  };

  config = mkIf cfg.enable (mkMerge [
    {
      assertions = [
        {
          assertion = config.nix.enable;
          message = "services.larder.client needs Nix on this machine: set nix.enable, or remove services.larder.client.enable.";
        }
        {
          # A malformed key makes every operation fail that checks a signature, such as the next rebuild.
          assertion = faults == [ ];
          message = "services.larder.client.caches: ${builtins.concatStringsSep "; " faults}.";
        }
        {
          assertion = builtins.all (cache: cache.publicKeys != [ ]) caches;
          message = "services.larder.client.caches has a cache without publicKeys: Nix takes nothing from it. `larder key public FILE` prints the key where the cache is signed.";
        }
        {
          assertion = !(cfg.relay.enable && cfg.guard.enable);
          message = "services.larder.client has relay.enable and guard.enable, and one of them is enough: the relay tells Nix that a cache which is away has nothing, the guard takes it out of Nix's configuration.";
        }
        {
          assertion =
            !cfg.relay.enable || builtins.all (name: builtins.match "[A-Za-z0-9_-]+" name != null) (
              builtins.attrNames cfg.caches
            );
          message = "services.larder.client.caches has a name that cannot be part of a URL, which the relay makes of it: use letters, digits, `-` and `_`.";
        }
        {
          assertion =
            !cfg.relay.enable || builtins.all (cache: builtins.match "https?://.*" cache.url != null) caches;
          message = "services.larder.client.relay passes on requests to http:// and https:// caches, and another one is in services.larder.client.caches: give its HTTP address, or set relay.enable = false.";
        }
      ];
      nix.settings = {
        trusted-public-keys = keys;
        # An unavailable cache makes builds slower, but no build fails.
        fallback = mkDefault true;
        connect-timeout = mkDefault cfg.connectTimeout;
        stalled-download-timeout = mkDefault cfg.stalledTimeout;
        download-attempts = mkDefault cfg.downloadAttempts;
        narinfo-cache-negative-ttl = mkDefault cfg.negativeTtl;
      };
    }
    (mkIf (!cfg.guard.enable) {
      nix.settings.substituters = urls;
    })
    (mkIf cfg.relay.enable {
      systemd.sockets.larder-relay = {
        unitConfig = units."larder-relay.socket".Unit;
        socketConfig = units."larder-relay.socket".Socket // {
          ListenStream = cfg.relay.address;
        };
        wantedBy = [ units."larder-relay.socket".Install.WantedBy ];
      };
      systemd.services.larder-relay = {
        unitConfig = units."larder-relay.service".Unit;
        serviceConfig = units."larder-relay.service".Service;
      };
    })
    (mkIf cfg.guard.enable {
      # The guard writes this file for the first time after it has probed the caches. It names the caches that answer.
      nix.extraOptions = "!include ${fragment}\n";
      systemd.services.larder-guard-probe = {
        unitConfig = units."larder-guard-probe.service".Unit;
        serviceConfig = units."larder-guard-probe.service".Service;
      };
      systemd.services.larder-guard = {
        unitConfig = units."larder-guard.service".Unit;
        serviceConfig = units."larder-guard.service".Service;
        wantedBy = [ units."larder-guard.service".Install.WantedBy ];
        # The service runs and restarts Nix's daemon from this package.
        path = [ config.systemd.package ];
      };
      systemd.timers.larder-guard = {
        unitConfig = units."larder-guard.timer".Unit;
        timerConfig = units."larder-guard.timer".Timer // {
          OnUnitInactiveSec = cfg.guard.interval;
        };
        wantedBy = [ units."larder-guard.timer".Install.WantedBy ];
      };
    })
  ]);
}
