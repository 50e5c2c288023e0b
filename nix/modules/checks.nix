# Assertions of more than one module. Each message names a remedy.
{ larder }:
{
  # The assertions for a machine that pushes. `at` is the path of its options.
  pusher =
    at: cfg:
    let
      fault = list: builtins.concatStringsSep "; " list;
      keys = (cfg.settings.upstream-keys or null);
      trusted = (cfg.settings.trusted-keys or null);
      faults =
        larder.keyFaults (if keys == null then [ ] else keys)
        ++ larder.keyFaults (if trusted == null then [ ] else trusted);
    in
    [
      {
        assertion = cfg.settings.bucket != null;
        message = "${at}.settings.bucket is not set: name the bucket, for example \"s3://nix-cache?endpoint=https://s3.example.org\".";
      }
      {
        assertion = cfg.signingKeyFiles != [ ] || cfg.settings ? signing-command;
        message = "${at}.signingKeyFiles is empty, and clients refuse what is not signed: make a key with `larder key generate NAME --output FILE` and name the file.";
      }
      {
        assertion = !(builtins.any larder.inStore cfg.signingKeyFiles);
        message = "${at}.signingKeyFiles names a file in the Nix store, which everybody can read: write the path as a string, and put the file where only root reads it.";
      }
      {
        assertion = cfg.credentialsFile == null || !(larder.inStore cfg.credentialsFile);
        message = "${at}.credentialsFile is in the Nix store, which everybody can read: write the path as a string, and put the file where only root reads it.";
      }
      {
        assertion = !(cfg.settings ? signing-key-files) && !(cfg.settings ? credentials-file);
        message = "${at}.settings has signing-key-files or credentials-file: use ${at}.signingKeyFiles and ${at}.credentialsFile, which hand them to the service.";
      }
      {
        assertion = faults == [ ];
        message = "${at}.settings has unusable public keys: ${fault faults}.";
      }
    ];
}
