# Virtual machines, which need nixpkgs. The first builds and pushes into a bucket on the second, and the third
# substitutes. The bucket stops and starts again. At the end the modules are removed.
{ pkgs, self }:
let
  # Keys for this test only. They protect nothing.
  secretKey = pkgs.writeText "test.sec" "test-1:OnQmsI6S5QYCI9rbsFngS7CS21l47gWRsFr8nR5iM+Na4Yw4Zgbjma5U1Kz5U8uC9qO9LDQ18iTT4LRFfl7nLg==";
  publicKey = "test-1:WuGMOGYG45muVNSs+VPLgvajvSw0NfIk0+C0RX5e5y4=";
  access = {
    key = "TESTACCESSKEY";
    secret = "testsecretkey0000";
  };
  # A build without dependencies, so that each machine can evaluate the same expression.
  expression = pkgs.writeText "greeting.nix" ''
    text: derivation {
      name = "greeting";
      system = "${pkgs.stdenv.hostPlatform.system}";
      builder = "/bin/sh";
      args = [ "-c" "echo ''${text} > $out" ];
    }
  '';
  base = {
    nix.settings.sandbox = false;
    nix.settings.substituters = pkgs.lib.mkForce [ ];
    nix.settings.experimental-features = [ "nix-command" ];
    virtualisation.writableStore = true;
  };
  client = {
    services.larder.client = {
      enable = true;
      caches.test = {
        url = "http://bucket:8333/nix-cache";
        publicKeys = [ publicKey ];
      };
    };
  };
in
pkgs.testers.runNixOSTest {
  name = "larder-machines";

  nodes = {
    bucket = {
      imports = [ self.nixosModules.bucket ];
      services.larder.bucket = {
        enable = true;
        server = "seaweedfs";
        credentialsFile = "/etc/larder/s3.json";
        openFirewallOn = [ "eth1" ];
      };
      environment.etc."larder/s3.json".text = builtins.toJSON {
        identities = [
          {
            name = "larder";
            credentials = [
              {
                accessKey = access.key;
                secretKey = access.secret;
              }
            ];
            actions = [
              "Admin"
              "Read"
              "Write"
              "List"
            ];
          }
          {
            name = "anonymous";
            actions = [ "Read:nix-cache" ];
          }
        ];
      };
    };

    builder = {
      imports = [
        base
        self.nixosModules.larder
      ];
      services.larder = {
        enable = true;
        settings.bucket = "s3://nix-cache?endpoint=http://bucket:8333";
        signingKeyFiles = [ "/etc/larder/key.sec" ];
        credentialsFile = "/etc/larder/credentials";
      };
      specialisation.removed.configuration.services.larder.enable = pkgs.lib.mkForce false;
      # Outside of a test, the keys are made outside of the configuration.
      systemd.tmpfiles.rules = [
        "C /etc/larder/key.sec 0600 root root - ${secretKey}"
        "f /etc/larder/credentials 0600 root root - AWS_ACCESS_KEY_ID=${access.key}\\nAWS_SECRET_ACCESS_KEY=${access.secret}\\n"
      ];
    };

    other = {
      imports = [
        base
        self.nixosModules.client
      ];
      # `base` forces an empty list for the builder.
      nix.settings.extra-substituters = [ "http://bucket:8333/nix-cache" ];
      services.larder.client = client.services.larder.client;
      specialisation.removed.configuration.services.larder.client.enable = pkgs.lib.mkForce false;
    };
  };

  testScript = ''
    def build(machine, text, *options):
        return machine.succeed(
            f"nix-build --no-out-link {' '.join(options)} -E 'import ${expression} \"{text}\"'"
        ).strip()

    start_all()
    bucket.wait_for_open_port(8333)
    builder.wait_for_unit("larder-agent.path")
    builder.wait_until_succeeds("larder init --create")

    with subtest("what the builder builds arrives in the bucket, signed"):
        path = build(builder, "first")
        builder.succeed("larder flush --wait --timeout 120")
        other.succeed(
            "nix store verify -r --store http://bucket:8333/nix-cache "
            f"--option trusted-public-keys ${publicKey} {path}"
        )

    with subtest("the other machine substitutes it"):
        assert build(other, "first", "--max-jobs 0") == path

    with subtest("nothing runs while there is nothing to do"):
        builder.wait_until_fails("systemctl is-active larder-agent.service", timeout=180)

    with subtest("the bucket is away: builds go on, on both"):
        bucket.succeed("systemctl stop larder-bucket.service")
        second = build(builder, "second")
        assert build(other, "second") == second
        builder.succeed("larder status | grep -q second || larder status --json | grep -q greeting")

    with subtest("the bucket is back: what waited arrives"):
        bucket.succeed("systemctl start larder-bucket.service")
        bucket.wait_for_open_port(8333)
        builder.succeed("larder flush --wait --timeout 300")
        other.succeed(f"nix path-info --store http://bucket:8333/nix-cache {second}")

    with subtest("the modules are removed, and both still build"):
        builder.succeed("/run/current-system/specialisation/removed/bin/switch-to-configuration test")
        other.succeed("/run/current-system/specialisation/removed/bin/switch-to-configuration test")
        bucket.succeed("systemctl stop larder-bucket.service")
        assert build(builder, "third") == build(other, "third")
        builder.fail("grep post-build-hook /etc/nix/nix.conf")
  '';
}
