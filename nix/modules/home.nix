# services.larder for home-manager. Without root it cannot set the hook. `larder catch-up` finds the paths that the
# user's builds add to the store, and an agent of the user pushes them.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    mkEnableOption
    mkIf
    mkMerge
    ;
  larder = import ../lib.nix;
  cfg = config.services.larder;
  shared = import ./settings.nix { inherit lib pkgs; };
  checks = import ./checks.nix { inherit larder; };
  stateDir = "${config.xdg.stateHome}/larder";
in
{
  # The upkeep of a bucket is the work of one machine, not of a user.
  options.services.larder = removeAttrs shared [
    "collect"
    "verify"
  ] // {
    enable = mkEnableOption "pushing what is built on this machine into a binary cache, as this user";
  };

  config = mkIf cfg.enable (mkMerge [
    {
      assertions = checks.pusher "services.larder" cfg;
      home.packages = [ cfg.package ];
      xdg.configFile."larder/config.toml".source = pkgs.writeText "larder-config.toml" (
        larder.configuration stateDir cfg
      );
      systemd.user.services.larder-agent = {
        Unit = {
          Description = "Push queued Nix builds into the binary cache";
          ConditionDirectoryNotEmpty = [
            "|${stateDir}/incoming"
            "|${stateDir}/work"
          ];
          StartLimitIntervalSec = 0;
        };
        Service = {
          Type = "notify";
          ExecStart = "${cfg.package}/bin/larder agent --exit-when-idle";
          Restart = "on-failure";
          RestartSec = 10;
          TimeoutStopSec = 40;
          WatchdogSec = 900;
          # A core dump would hold the signing key.
          LimitCORE = 0;
          Nice = 5;
        };
        Install.WantedBy = [ "default.target" ];
      };
      systemd.user.paths.larder-agent = {
        Unit.Description = "Start larder's agent when something is queued";
        Path.DirectoryNotEmpty = "${stateDir}/incoming";
        Install.WantedBy = [ "default.target" ];
      };
      systemd.user.timers.larder-agent = {
        Unit.Description = "Start larder's agent again while it has left something";
        Timer = {
          OnCalendar = "*:0/15";
          RandomizedDelaySec = 120;
        };
        Install.WantedBy = [ "timers.target" ];
      };
    }
    (mkIf cfg.catchUp.enable {
      systemd.user.services.larder-catch-up = {
        Unit.Description = "Queue what was built on this machine";
        Service = {
          Type = "oneshot";
          ExecStart = "${cfg.package}/bin/larder catch-up";
          LimitCORE = 0;
        };
      };
      systemd.user.timers.larder-catch-up = {
        Unit.Description = "Queue what was built on this machine";
        Timer = {
          OnCalendar = cfg.catchUp.onCalendar;
          Persistent = true;
        };
        Install.WantedBy = [ "timers.target" ];
      };
    })
    (mkIf cfg.recheck.enable {
      systemd.user.services.larder-recheck = {
        Unit.Description = "Look again at what larder relies on in the binary cache";
        Service = {
          Type = "oneshot";
          ExecStart = "${cfg.package}/bin/larder recheck";
          # A core dump would hold the signing key.
          LimitCORE = 0;
          Nice = 10;
          IOSchedulingClass = "idle";
        };
      };
      systemd.user.timers.larder-recheck = {
        Unit.Description = "Look again at what larder relies on in the binary cache";
        Timer = {
          OnCalendar = cfg.recheck.onCalendar;
          Persistent = true;
          RandomizedDelaySec = 3600;
        };
        Install.WantedBy = [ "timers.target" ];
      };
    })
  ]);
}
