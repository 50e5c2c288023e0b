# Machines to evaluate. `tests/tests/machines/modules.rs` has the expectations for each machine under the same name.
{ lib }:
let
  key = "cache.lan-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
  pusher = {
    enable = true;
    settings.bucket = "s3://nix-cache?endpoint=http://cache.lan:8333";
    signingKeyFiles = [ "/etc/larder/key.sec" ];
    credentialsFile = "/etc/larder/credentials";
  };
  nixos = config: {
    on = "nixos";
    inherit config;
  };
  push = change: nixos { services.larder = pusher // change; };
  client = change: nixos {
    services.larder.client = {
      enable = true;
      caches.lan = {
        url = "http://cache.lan:8333/nix-cache";
        publicKeys = [ key ];
      };
    }
    // change;
  };
in
{
  nothing = nixos { };
  pushes = push { };
  no-bucket = push { settings = { }; };
  no-key = push { signingKeyFiles = [ ]; };
  key-in-store = push { signingKeyFiles = [ "${builtins.storeDir}/00000000000000000000000000000000-key" ]; };
  credentials-in-store = push { credentialsFile = "${builtins.storeDir}/00000000000000000000000000000000-c"; };
  other-state-dir = push { settings = pusher.settings // { state-dir = "/srv/queue"; }; };
  bad-upstream-key = push { settings = pusher.settings // { upstream-keys = [ "nonsense" ]; }; };
  directory = push {
    settings = {
      bucket = "file:///srv/cache";
      exclude = [
        "a-*"
        "with \"quotes\""
      ];
      jobs = 4;
      push-upstream = true;
    };
    credentialsFile = null;
  };
  no-nix = nixos {
    nix.enable = false;
    services.larder = pusher;
  };
  chained = push { chainedHook = "/run/current-system/sw/bin/my hook"; };
  other-hook = nixos {
    nix.settings.post-build-hook = "/some/other-hook";
    services.larder = pusher;
  };
  other-hook-in-text = nixos {
    nix.extraOptions = "post-build-hook = /some/other-hook\n";
    services.larder = pusher;
  };
  keeper = nixos {
    services.larder = pusher // {
      verify.enable = true;
      collect = {
        enable = true;
        onCalendar = "weekly";
      };
    };
  };
  no-hook = nixos {
    nix.settings.post-build-hook = "/some/other-hook";
    services.larder = pusher // {
      installHook = false;
      catchUp.enable = false;
      recheck.enable = false;
    };
  };
  substitutes = client { };
  first = nixos {
    nix.settings.connect-timeout = 7;
    services.larder.client = {
      enable = true;
      caches.lan = {
        url = "s3://nix-cache?endpoint=http://cache.lan:8333";
        publicKeys = [ key ];
        priority = 10;
      };
    };
  };
  bad-key = client {
    caches.lan = {
      url = "http://cache.lan:8333/nix-cache";
      publicKeys = [ "cache.lan-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShj=" ];
    };
  };
  two-values = client {
    caches = {
      lan = {
        url = "http://cache.lan:8333/nix-cache";
        publicKeys = [ key ];
      };
      other = {
        url = "http://other.lan:8333/nix-cache";
        publicKeys = [ "cache.lan-1:qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqo=" ];
      };
    };
  };
  bad-url = client {
    caches.lan = {
      url = "cache.lan:8333/nix-cache";
      publicKeys = [ key ];
    };
  };
  no-public-key = client {
    caches.lan = {
      url = "http://cache.lan:8333/nix-cache";
      publicKeys = [ ];
    };
  };
  travels = client {
    caches.lan = {
      url = "http://cache.lan:8333/nix-cache";
      publicKeys = [ key ];
      priority = 10;
    };
    guard.enable = true;
  };
  relayed = client {
    caches.lan = {
      url = "http://cache.lan:8333/nix%20cache?x=y";
      publicKeys = [ key ];
      priority = 10;
    };
    relay.enable = true;
    relay.address = "127.0.0.1:8391";
  };
  relayed-and-guarded = client {
    relay.enable = true;
    guard.enable = true;
  };
  relayed-by-a-bad-name = client {
    caches."lan/1" = {
      url = "http://cache.lan:8333/nix-cache";
      publicKeys = [ key ];
    };
    relay.enable = true;
  };
  relayed-from-s3 = client {
    caches.lan = {
      url = "s3://nix-cache?endpoint=http://cache.lan:8333";
      publicKeys = [ key ];
    };
    relay.enable = true;
  };
  seaweedfs = nixos {
    services.larder.bucket = {
      enable = true;
      server = "seaweedfs";
      credentialsFile = "/etc/larder/s3.json";
      openFirewallOn = [ "eth0" ];
    };
  };
  garage = nixos {
    services.larder.bucket = {
      enable = true;
      server = "garage";
      credentialsFile = "/etc/larder/garage.env";
      address = "192.168.1.10";
      replicationFactor = 3;
    };
  };
  mac = {
    on = "darwin";
    config.services.larder = pusher;
  };
  mac-without-bucket = {
    on = "darwin";
    config.services.larder = pusher // {
      settings = { };
    };
  };
  user = {
    on = "home";
    config.services.larder = pusher;
  };
}
