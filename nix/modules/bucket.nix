# services.larder.bucket: an S3 server for the cache's bucket. docs/buckets.md describes how to create the bucket and
# how to use other servers.
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
  cfg = config.services.larder.bucket;
  dataDir = "/var/lib/larder-bucket";
in
{
  options.services.larder.bucket = {
    enable = mkEnableOption "an S3 server for a binary cache";

    server = mkOption {
      type = types.addCheck types.str (server: server == "seaweedfs" || server == "garage");
      description = "Which: `seaweedfs`, on one machine; or `garage`, on one or on a cluster with a node on each machine that is always on.";
    };

    credentialsFile = mkOption {
      type = types.str;
      description = "SeaweedFS: the JSON file with identities. Garage: an environment file with GARAGE_RPC_SECRET. Outside of the store.";
    };

    address = mkOption {
      type = types.str;
      default = "0.0.0.0";
      description = "The address to listen on for S3 and, with Garage, for reading and for the other nodes. A cluster needs this machine's own.";
    };

    port = mkOption {
      type = types.int;
      default = 8333;
      description = "The port of S3. Garage's reading port is the next one.";
    };

    replicationFactor = mkOption {
      type = types.int;
      default = 1;
      description = "Garage: on how many nodes each object lies.";
    };

    openFirewallOn = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "eth0" ];
      description = "Interfaces on which the firewall lets clients in.";
    };
  };

  config = mkIf cfg.enable (mkMerge [
    {
      assertions = [
        {
          assertion = !larder.inStore cfg.credentialsFile;
          message = "services.larder.bucket.credentialsFile is in the Nix store, which everybody can read: write the path as a string, and put the file where only root reads it.";
        }
        {
          assertion = cfg.server != "garage" || cfg.replicationFactor == 1 || cfg.address != "0.0.0.0";
          message = "services.larder.bucket.address is needed for a Garage cluster: set it to the address at which the other nodes reach this machine.";
        }
      ];
      networking.firewall.interfaces = lib.genAttrs cfg.openFirewallOn (_: {
        allowedTCPPorts = [ cfg.port ] ++ lib.optionals (cfg.server == "garage") [
          (cfg.port + 1)
          (cfg.port + 2)
        ];
      });
    }
    (mkIf (cfg.server == "seaweedfs") {
      systemd.services.larder-bucket = {
        description = "SeaweedFS, with the binary cache's bucket";
        after = [ "network.target" ];
        wantedBy = [ "multi-user.target" ];
        serviceConfig = {
          # Other machines need only S3. The server's own parts use the loopback interface.
          ExecStart = "${pkgs.seaweedfs}/bin/weed server -dir=${dataDir} -ip=127.0.0.1 -ip.bind=127.0.0.1 -volume.max=0 -filer -s3 -s3.ip.bind=${cfg.address} -s3.port=${toString cfg.port} -s3.config=%d/s3.json";
          LoadCredential = [ "s3.json:${cfg.credentialsFile}" ];
          DynamicUser = true;
          StateDirectory = "larder-bucket";
          Restart = "on-failure";
          ProtectSystem = "strict";
          ProtectHome = true;
          PrivateDevices = true;
          NoNewPrivileges = true;
        };
      };
    })
    (mkIf (cfg.server == "garage") {
      services.garage = {
        enable = true;
        package = pkgs.garage;
        environmentFile = cfg.credentialsFile;
        settings = {
          replication_factor = cfg.replicationFactor;
          rpc_bind_addr = "${cfg.address}:${toString (cfg.port + 2)}";
          rpc_public_addr = "${cfg.address}:${toString (cfg.port + 2)}";
          s3_api = {
            api_bind_addr = "${cfg.address}:${toString cfg.port}";
            s3_region = "garage";
          };
          # Garage has this as the only way to read without a key.
          s3_web = {
            bind_addr = "${cfg.address}:${toString (cfg.port + 1)}";
            root_domain = ".cache.internal";
          };
        };
      };
    })
  ]);
}
