# The functions that the modules share: checks of public keys and of the URLs of caches, the configuration file, and the
# units. They do not need nixpkgs. `nix/tests/keys.json` and `urls.json` are the test cases for these checks and for the
# checks of larder.
let
  inherit (builtins)
    attrNames
    concatStringsSep
    filter
    isString
    length
    match
    replaceStrings
    stringLength
    toJSON
    ;

  # The reason why a text is not a public key, or `null`. The reason does not repeat the text: it may be a secret key.
  keyFault =
    text:
    let
      parts = match "([^:]*):(.*)" text;
      name = builtins.elemAt parts 0;
      encoded = builtins.elemAt parts 1;
      size = stringLength encoded;
    in
    if parts == null then
      "has no colon between name and key"
    else if name == "" then
      "has no name before the colon"
    else if match "[^[:space:]]+" name == null then
      "has white space in its name"
    else if match "[A-Za-z0-9+/]*=*" encoded == null then
      "is not base64 behind the colon"
    else if size == 88 then
      "is a secret key, which belongs into a file that nobody else reads: give its public half (`larder key public FILE`), and replace the key if it has been published by this"
    else if size != 44 then
      "has not 32 bytes behind the colon (44 characters of base64)"
    # 32 bytes do not use two bits of the last digit.
    else if match ".{42}[AEIMQUYcgkosw048]=" encoded == null then
      "is not base64 of 32 bytes behind the colon"
    else
      null;

  keyName =
    text:
    let
      parts = match "([^:]*):.*" text;
    in
    if parts == null then "" else builtins.head parts;

  # The name of a key, or the beginning of the text. That is enough to find the key.
  keyLabel =
    text: if keyName text == "" then builtins.substring 0 8 text else "${keyName text}:";

  # The faults of a list of public keys, one message for each fault.
  keyFaults =
    keys:
    let
      single = filter isString (
        map (
          key:
          let
            fault = keyFault key;
          in
          if fault == null then null else "the public key `${keyLabel key}…` ${fault}"
        ) keys
      );
      names = attrNames (
        builtins.listToAttrs (
          map (key: {
            name = keyName key;
            value = null;
          }) keys
        )
      );
      values = name: attrNames (builtins.listToAttrs (
        map (key: {
          name = key;
          value = null;
        }) (filter (key: keyName key == name) keys)
      ));
      twice = filter (name: length (values name) > 1) names;
    in
    single
    ++ map (
      name:
      "two different public keys are named `${name}`: Nix uses the first and ignores the other; give a new key a new name"
    ) twice;

  # The reason why a URL cannot be a substituter, or `null`.
  urlFault =
    text:
    let
      parts = match "([a-z0-9+.-]+)://([^/?#]*)([^?#]*)([?].*)?" text;
      scheme = builtins.elemAt parts 0;
      host = builtins.elemAt parts 1;
      path = builtins.elemAt parts 2;
    in
    if match ".*[[:space:]].*" text != null then
      "has white space in it"
    else if parts == null then
      "is no URL: write `http://HOST:PORT/BUCKET`, `https://…`, `s3://BUCKET?endpoint=…` or `file:///DIRECTORY`"
    else if match ".*@.*" host != null then
      "has credentials in it, which everybody on the machine could read: use `netrc-file` for them"
    else if scheme == "file" then
      if host == "" && match "/.+" path != null then null else "needs an absolute directory: `file:///DIRECTORY`"
    else if scheme == "s3" then
      if host == "" then "names no bucket" else null
    else if scheme == "http" || scheme == "https" then
      if match "\\[[0-9a-fA-F:.]+](:[0-9]+)?|[^:]+(:[0-9]+)?" host == null then
        "names no host, or a port that is no number"
      else
        null
    else
      "has the scheme `${scheme}`, which is no binary cache's: http, https, s3 or file";

  urlFaults =
    urls:
    filter isString (
      map (
        url:
        let
          fault = urlFault url;
        in
        if fault == null then null else "the cache `${url}` ${fault}"
      ) urls
    );

  # Everybody can read the store, so no secret may be in it.
  inStore = path: match "${builtins.storeDir}/.*" (toString path) != null;

  # A URL with an additional parameter.
  withParameter = url: parameter: url + (if match ".*[?].*" url == null then "?" else "&") + parameter;

  # The text of a configuration file of larder. TOML writes the values as JSON does: strings, numbers, booleans and
  # lists of strings. Keys with the value `null` are left out.
  toToml =
    settings:
    concatStringsSep "" (
      map (name: "${name} = ${toJSON settings.${name}}\n") (
        filter (name: settings.${name} != null) (attrNames settings)
      )
    );

  # The configuration file of a machine that pushes.
  configuration =
    stateDir: cfg:
    toToml (
      cfg.settings
      // {
        state-dir = stateDir;
        signing-key-files = cfg.signingKeyFiles;
        credentials-file = cfg.credentialsFile;
      }
    );

  # The units in units.json with the paths of the programs: those of a machine that pushes, or its `client-units`.
  unit =
    {
      bin,
      of ? "units",
      caches ? "",
      urls ? "",
    }:
    let
      place =
        value:
        if isString value then
          replaceStrings [ "@bin@" "@caches@" "@urls@" ] [ bin caches urls ] value
        else if builtins.isList value then
          map place value
        else if builtins.isAttrs value then
          builtins.mapAttrs (_: place) value
        else
          value;
      file = builtins.fromJSON (builtins.readFile ./units.json);
      # All units have the same sandbox. A unit's own lines take precedence.
      whole =
        body: body // (if body ? Service then { Service = file.sandbox // body.Service; } else { });
    in
    builtins.mapAttrs (_: body: place (whole body)) file.${of};

  systems = [
    "x86_64-linux"
    "aarch64-linux"
    "x86_64-darwin"
    "aarch64-darwin"
  ];
in
{
  inherit
    configuration
    inStore
    keyFault
    keyFaults
    systems
    toToml
    unit
    urlFault
    urlFaults
    withParameter
    ;
}
