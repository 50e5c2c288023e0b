# services.larder for nix-darwin: launchd watches the queue as a systemd path unit does.
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
    mkOption
    types
    ;
  larder = import ../lib.nix;
  cfg = config.services.larder;
  shared = import ./settings.nix { inherit lib pkgs; };
  checks = import ./checks.nix { inherit larder; };
  stateDir = "/var/lib/larder";
  file = pkgs.writeText "larder-config.toml" (larder.configuration stateDir cfg);
  nixHook = import ./hook.nix { inherit lib pkgs cfg; };
  daemon = arguments: {
    ProgramArguments = [ "${cfg.package}/bin/larder" ] ++ arguments;
    ProcessType = "Background";
    StandardErrorPath = "/var/log/larder.log";
    # A core dump would hold the signing key.
    HardResourceLimits.Core = 0;
    SoftResourceLimits.Core = 0;
  };
in
{
  options.services.larder = removeAttrs shared [
    "catchUp"
    "collect"
    "recheck"
    "verify"
  ] // nixHook.options // {
    enable = mkEnableOption "pushing what this machine builds with Nix into a binary cache";
    catchUp.enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether to queue, once a day, what was built here and the hook never saw.";
    };
    recheck.enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether to look again, once a day, at what larder relies on in the bucket.";
    };
  };

  config = mkIf cfg.enable (mkMerge [
    {
      assertions = checks.pusher "services.larder" cfg ++ [
        {
          assertion = config.nix.enable;
          message = "services.larder needs nix-darwin to manage Nix: set nix.enable. Where another installer does, set the post-build-hook in /etc/nix/nix.custom.conf by hand and services.larder.installHook = false.";
        }
      ];
      environment.systemPackages = [ cfg.package ];
      environment.etc."larder/config.toml".source = file;
      # The agent runs as root. launchd has no sandbox such as systemd's, and root's queue needs no other owner.
      launchd.daemons.larder-agent.serviceConfig = daemon [
        "agent"
        "--exit-when-idle"
      ] // {
        # launchd starts the agent when a job is queued, and after a failure. The agent ends when the queue is empty.
        QueueDirectories = [ "${stateDir}/incoming" ];
        RunAtLoad = true;
        KeepAlive.SuccessfulExit = false;
        ThrottleInterval = 10;
        ExitTimeOut = 40;
      };
      launchd.daemons.larder-queue.serviceConfig = daemon [
        "queue"
        "create"
      ] // {
        RunAtLoad = true;
      };
    }
    (mkIf cfg.installHook { nix.settings.post-build-hook = nixHook.program; })
    (mkIf cfg.catchUp.enable {
      launchd.daemons.larder-catch-up.serviceConfig = daemon [ "catch-up" ] // {
        StartCalendarInterval = [ { Hour = 4; } ];
      };
    })
    (mkIf cfg.recheck.enable {
      launchd.daemons.larder-recheck.serviceConfig = daemon [ "recheck" ] // {
        StartCalendarInterval = [ { Hour = 5; } ];
        LowPriorityIO = true;
        Nice = 10;
      };
    })
  ]);
}
