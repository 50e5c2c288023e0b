# Nix's post-build-hook, on machines whose modules may set it: the options and the program.
{
  lib,
  pkgs,
  cfg,
}:
let
  inherit (lib) mkOption types;
in
{
  options = {
    installHook = mkOption {
      type = types.bool;
      default = true;
      description = "Whether to make larder-hook Nix's `post-build-hook`. Without it, what is built is found by `catchUp` alone.";
    };

    chainedHook = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/run/current-system/sw/bin/my-hook";
      description = "Another program that is to run after each build. Nix has one `post-build-hook`: larder's queues, and then becomes this one.";
    };
  };

  # A script that runs larder's hook, which then executes the other hook. Nix passes no arguments to its hook.
  program =
    if cfg.chainedHook == null then
      "${cfg.package}/bin/larder-hook"
    else
      "${pkgs.writeShellScript "larder-hook-then" ''
        exec ${cfg.package}/bin/larder-hook --then ${lib.escapeShellArg cfg.chainedHook}
      ''}";
}
