# services.larder: a machine that pushes its builds.
{
  config,
  lib,
  options,
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
  # The units need this state directory.
  stateDir = "/var/lib/larder";

  units = larder.unit { bin = "${cfg.package}/bin"; };
  # The same units in the form of NixOS, which has other names for the sections.
  systemdUnit =
    name: extra:
    let
      body = units.${name};
      install = body.Install or { };
    in
    mkMerge [
      {
        unitConfig = body.Unit;
        wantedBy = if install ? WantedBy then [ install.WantedBy ] else [ ];
      }
      extra
    ];
  service =
    name: extra:
    systemdUnit name (mkMerge [
      { serviceConfig = units.${name}.Service; }
      extra
    ]);

  file = pkgs.writeText "larder-config.toml" (larder.configuration stateDir cfg);
  # If the builder cannot run the program, the agent checks the configuration at its start.
  canRun = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
  checked =
    if canRun then
      pkgs.runCommand "larder-config.toml" { } ''
        HOME=$PWD ${cfg.package}/bin/larder --config ${file} config check --values-only
        cp ${file} $out
      ''
    else
      file;

  nixHook = import ./hook.nix { inherit lib pkgs cfg; };
  hook = nixHook.program;
  # The definitions of the hook by other modules. Nix has only one hook.
  otherHooks = builtins.filter (value: value != hook) (
    builtins.concatMap (
      definition:
      if builtins.isAttrs definition && definition ? post-build-hook then
        [ (toString (definition.post-build-hook.content or definition.post-build-hook)) ]
      else
        [ ]
    ) options.nix.settings.definitions
  );

  # The credentials of the units. systemd passes them to the agent and the recheck, so only root needs to read the files.
  keys = lib.imap0 (index: file: {
    inherit file;
    name = "key-${toString index}";
  }) cfg.signingKeyFiles;
  secrets = {
    LoadCredential =
      map (key: "${key.name}:${key.file}") keys
      ++ lib.optional (cfg.credentialsFile != null) "credentials:${cfg.credentialsFile}";
    Environment =
      [ "\"LARDER_SIGNING_KEY_FILES=${builtins.concatStringsSep " " (map (key: "%d/${key.name}") keys)}\"" ]
      ++ lib.optional (cfg.credentialsFile != null) "LARDER_CREDENTIALS_FILE=%d/credentials";
  };
  directory = builtins.match "file://(/[^?]*).*" (
    if cfg.settings.bucket == null then "" else cfg.settings.bucket
  );
in
{
  options.services.larder = shared // nixHook.options // {
    enable = mkEnableOption "pushing what this machine builds with Nix into a binary cache";
  };

  config = mkIf cfg.enable (mkMerge [
    {
      assertions = checks.pusher "services.larder" cfg ++ [
        {
          assertion = config.nix.enable;
          message = "services.larder needs Nix on this machine: set nix.enable, or remove services.larder.enable.";
        }
        {
          assertion = (cfg.settings.state-dir or stateDir) == stateDir;
          message = "services.larder.settings.state-dir cannot be changed, since the units watch ${stateDir}: mount another file system there.";
        }
        {
          assertion = !cfg.installHook || otherHooks == [ ];
          message = "Nix has one post-build-hook, and another module sets it to ${builtins.concatStringsSep ", " otherHooks}: take that definition of nix.settings.post-build-hook out and name the program in services.larder.chainedHook, which is run after larder's; or set services.larder.installHook = false.";
        }
        {
          assertion =
            !cfg.installHook || builtins.match ".*post-build-hook[[:space:]]*=.*" config.nix.extraOptions == null;
          message = "nix.extraOptions sets post-build-hook, and Nix has one: take it out there and name the program in services.larder.chainedHook.";
        }
      ];

      environment.systemPackages = [ cfg.package ];
      environment.etc."larder/config.toml".source = checked;

      users.users.larder = {
        isSystemUser = true;
        group = "larder";
        home = stateDir;
        description = "larder's agent";
      };
      users.groups.larder = { };
      # This extends the list: a plain definition would replace the default, which allows everybody.
      nix.settings.extra-allowed-users = [ "larder" ];

      systemd.services.larder-queue = service "larder-queue.service" { };
      systemd.services.larder-agent = service "larder-agent.service" {
        restartTriggers = [ checked ];
        serviceConfig = secrets;
      };
      systemd.paths.larder-agent = systemdUnit "larder-agent.path" {
        pathConfig = units."larder-agent.path".Path;
      };
      systemd.timers.larder-agent = systemdUnit "larder-agent.timer" {
        timerConfig = units."larder-agent.timer".Timer;
      };
    }
    (mkIf (directory != null) {
      systemd.services.larder-agent.serviceConfig.ReadWritePaths = [ (builtins.head directory) ];
    })
    (mkIf cfg.installHook {
      nix.settings.post-build-hook = hook;
    })
    (mkIf cfg.catchUp.enable {
      systemd.services.larder-catch-up = service "larder-catch-up.service" { };
      systemd.timers.larder-catch-up = systemdUnit "larder-catch-up.timer" {
        timerConfig = units."larder-catch-up.timer".Timer // {
          OnCalendar = cfg.catchUp.onCalendar;
        };
      };
    })
    (mkIf cfg.verify.enable {
      systemd.services.larder-verify = service "larder-verify.service" { serviceConfig = secrets; };
      systemd.timers.larder-verify = systemdUnit "larder-verify.timer" {
        timerConfig = units."larder-verify.timer".Timer // {
          OnCalendar = cfg.verify.onCalendar;
        };
      };
    })
    (mkIf cfg.collect.enable {
      systemd.services.larder-collect = service "larder-collect.service" { serviceConfig = secrets; };
      systemd.timers.larder-collect = systemdUnit "larder-collect.timer" {
        timerConfig = units."larder-collect.timer".Timer // {
          OnCalendar = cfg.collect.onCalendar;
        };
      };
    })
    (mkIf cfg.recheck.enable {
      systemd.services.larder-recheck = service "larder-recheck.service" { serviceConfig = secrets; };
      systemd.timers.larder-recheck = systemdUnit "larder-recheck.timer" {
        timerConfig = units."larder-recheck.timer".Timer // {
          OnCalendar = cfg.recheck.onCalendar;
        };
      };
    })
  ]);
}
