# Evaluates the modules with strict stubs of the options that they set. The result is data: one machine for each case.
# `lib` is that of nixpkgs if its path is given, otherwise the small one of these tests.
{
  nixpkgsLib ? null,
  # A file with another module for a NixOS machine.
  document ? null,
}:
let
  lib = if nixpkgsLib == null then import ./mini-lib.nix else import (/. + nixpkgsLib);
  inherit (lib) mkOption types;
  option =
    type: default:
    mkOption {
      inherit type default;
      description = "a stub";
    };
  # The type of values in units and settings. Several definitions of a list are joined.
  value = types.oneOf [
    types.str
    types.int
    types.bool
    (types.listOf types.str)
  ];
  section = types.attrsOf value;
  unit =
    extra:
    types.submodule {
      options = {
        description = option types.str "";
        unitConfig = option section { };
        wantedBy = option (types.listOf types.str) [ ];
        after = option (types.listOf types.str) [ ];
      }
      // extra;
    };
  settings = option (types.submodule {
    freeformType = section;
    options = {
      # The same declarations as in NixOS.
      substituters = option (types.listOf types.str) [ ];
      trusted-public-keys = option (types.listOf types.str) [ ];
      allowed-users = option (types.listOf types.str) [ "*" ];
    };
  }) { };
  common = {
    assertions = option (types.listOf types.raw) [ ];
    environment.systemPackages = option (types.listOf types.raw) [ ];
    environment.etc = option (types.attrsOf (types.submodule { options.source = option types.raw ""; })) { };
    nix.enable = option types.bool true;
    nix.extraOptions = option types.lines "";
    nix.settings = settings;
  };
  nixos = {
    options = common // {
      users.users = option (types.attrsOf types.anything) { };
      users.groups = option (types.attrsOf types.anything) { };
      systemd.package = option types.raw "/systemd";
      systemd.services = option (types.attrsOf (unit {
        path = option (types.listOf types.raw) [ ];
        serviceConfig = option section { };
        restartTriggers = option (types.listOf types.raw) [ ];
      })) { };
      systemd.paths = option (types.attrsOf (unit {
        pathConfig = option section { };
      })) { };
      systemd.timers = option (types.attrsOf (unit {
        timerConfig = option section { };
      })) { };
      systemd.sockets = option (types.attrsOf (unit {
        socketConfig = option section { };
      })) { };
      networking.firewall.allowedTCPPorts = option (types.listOf types.int) [ ];
      networking.firewall.interfaces = option (types.attrsOf types.anything) { };
      services.garage = option (types.attrsOf types.anything) { };
    };
  };
  darwin = {
    options = common // {
      launchd.daemons = option (types.attrsOf (types.submodule {
        options.serviceConfig = option (types.attrsOf types.raw) { };
      })) { };
    };
  };
  home = {
    options = {
      assertions = common.assertions;
      home.packages = option (types.listOf types.raw) [ ];
      xdg.stateHome = option types.str "/home/u/.local/state";
      xdg.configFile = common.environment.etc;
      systemd.user.services = option (types.attrsOf types.anything) { };
      systemd.user.paths = option (types.attrsOf types.anything) { };
      systemd.user.timers = option (types.attrsOf types.anything) { };
    };
  };

  # Files keep their text, so that the test can pass it to the real programs.
  pkgs = {
    larder = {
      type = "derivation";
      name = "larder";
      outPath = "/package";
    };
    seaweedfs = "/seaweedfs";
    garage = "/garage";
    stdenv.buildPlatform.canExecute = _: true;
    stdenv.hostPlatform = { };
    writeText = name: text: "text:${name}:${text}";
    writeShellScript = name: text: "script:${name}:${text}";
    runCommand = name: _: script: "run:${name}:${script}";
  };

  machine =
    base: modules: config:
    let
      result = lib.evalModules {
        modules = [
          base
          { inherit config; }
        ]
        ++ modules;
        specialArgs = { inherit pkgs; };
      };
      failed = builtins.filter (one: !one.assertion) result.config.assertions;
    in
    if failed == [ ] then
      {
        config =
          removeAttrs result.config [
            "assertions"
            "services"
          ]
          // {
            garage = result.config.services.garage or null;
          };
      }
    else
      { failed = map (one: one.message) failed; };
  modules = {
    nixos = machine nixos [
      ../modules/nixos.nix
      ../modules/client.nix
      ../modules/bucket.nix
    ];
    darwin = machine darwin [ ../modules/darwin.nix ];
    home = machine home [ ../modules/home.nix ];
  };
  cases = import ./cases.nix { inherit lib; };
  json = name: builtins.fromJSON (builtins.readFile (./. + "/${name}"));
  larder = import ../lib.nix;
in
{
  lib = if nixpkgsLib == null then "the tests' own small evaluator" else "nixpkgs' lib ${lib.version or "?"}";
  cases = builtins.mapAttrs (_: case: modules.${case.on} case.config) cases;
  document = if document == null then null else modules.nixos (import (/. + document));
  keys = {
    good = map larder.keyFaults (json "keys.json").good;
    bad = map (case: {
      inherit (case) says;
      faults = larder.keyFaults case.keys;
    }) (json "keys.json").bad;
  };
  urls = {
    good = map larder.urlFault (json "urls.json").good;
    bad = map (case: {
      inherit (case) says;
      fault = larder.urlFault case.url;
    }) (json "urls.json").bad;
  };
}
