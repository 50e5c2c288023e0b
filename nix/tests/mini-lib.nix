# A small replacement for nixpkgs' lib, on machines without nixpkgs. It has the functions that the modules use: options
# and their types, definitions with priorities, and a module system without imports of paths. It is strict: a definition
# of an undeclared option is an error.
let
  inherit (builtins)
    attrNames
    concatLists
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    genList
    hasAttr
    head
    isAttrs
    isFunction
    isList
    length
    listToAttrs
    mapAttrs
    ;

  nameValue = name: value: { inherit name value; };
  unique = foldl' (seen: name: if elem name seen then seen else seen ++ [ name ]) [ ];
  show = path: concatStringsSep "." path;

  # Definitions are values, or values in these wrappers.
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  kind = value: if isAttrs value then value._type or null else null;

  # A definition as a list of { priority, value }.
  discharge =
    value:
    if kind value == "if" then
      (if value.condition then discharge value.content else [ ])
    else if kind value == "merge" then
      concatMap discharge value.contents
    else if kind value == "override" then
      map (one: one // { inherit (value) priority; }) (discharge value.content)
    else
      [
        {
          priority = 100;
          inherit value;
        }
      ];
  # Moves the wrappers around a set of definitions to its members, so that the names of the members are known before any
  # condition.
  spread =
    value:
    if kind value == "if" then
      map (mapAttrs (_: lib.mkIf value.condition)) (spread value.content)
    else if kind value == "merge" then
      concatMap spread value.contents
    else if kind value == "override" then
      map (mapAttrs (_: mkOverride value.priority)) (spread value.content)
    else
      [ value ];
  below = name: sets: concatMap (set: if hasAttr name set then [ set.${name} ] else [ ]) sets;
  winning =
    definitions:
    let
      best = foldl' (least: one: if one.priority < least then one.priority else least) 9999 definitions;
    in
    map (one: one.value) (filter (one: one.priority == best) definitions);

  type = name: check: merge: { inherit name check merge; };
  same =
    path: values:
    if builtins.all (value: value == head values) values then
      head values
    else
      throw "The option `${show path}' has conflicting definition values";
  scalar = name: check: type name check same;

  types = rec {
    str = scalar "string" builtins.isString;
    int = scalar "integer" builtins.isInt;
    bool = scalar "boolean" builtins.isBool;
    lines = type "text" builtins.isString (_: concatStringsSep "\n");
    package = scalar "package" (value: isAttrs value || builtins.isString value);
    path = package;
    raw = scalar "anything" (_: true);
    anything = type "anything" (_: true) (
      path: values: if builtins.all isAttrs values then foldl' (a: b: a // b) { } values else same path values
    );
    nullOr =
      inner:
      type "null or ${inner.name}" (value: value == null || inner.check value) (
        path: values: if builtins.all (value: value == null) values then null else inner.merge path values
      );
    addCheck = inner: more: inner // { check = value: inner.check value && more value; };
    oneOf =
      inner:
      type "one of ${concatStringsSep ", " (map (one: one.name) inner)}" (
        value: builtins.any (one: one.check value) inner
      ) (path: values: if isList (head values) then concatLists values else same path values);
    either = a: b: oneOf [ a b ];
    listOf =
      inner: type "list of ${inner.name}" (value: isList value && builtins.all inner.check value) (_: concatLists);
    attrsOf =
      inner:
      type "attribute set of ${inner.name}" isAttrs (
        path: values:
        let
          names = unique (concatMap attrNames values);
        in
        listToAttrs (
          filter (one: one != null) (
            map (
              name:
              let
                definitions = concatMap (value: if hasAttr name value then discharge value.${name} else [ ]) values;
              in
              if definitions == [ ] then null else nameValue name (checked (path ++ [ name ]) inner definitions)
            ) names
          )
        )
      );
    submodule =
      module:
      type "submodule" isAttrs (
        path: values:
        let
          result = evaluate path ([ module ] ++ map (config: { inherit config; }) values) { };
        in
        result.config
      );
  };

  checked =
    path: inner: definitions:
    let
      values = winning definitions;
      bad = filter (value: !inner.check value) values;
    in
    if bad != [ ] then
      throw "A definition for option `${show path}' is not of type `${inner.name}'"
    else
      inner.merge path values;

  # Merges the options of several modules into one tree.
  mergeOptions = foldl' (
    a: b:
    a
    // mapAttrs (
      name: value:
      if !(hasAttr name a) then
        value
      else if kind value == "option" || kind a.${name} == "option" then
        throw "the option `${name}' is declared twice"
      else
        mergeOptions [
          a.${name}
          value
        ]
    ) b
  ) { };

  evaluate =
    prefix: modules: specialArgs:
    let
      args = specialArgs // {
        inherit config options lib;
      };
      open =
        module:
        let
          file = if builtins.isPath module then import module else module;
          body = if isFunction file then file args else file;
        in
        {
          options = body.options or { };
          config = body.config or { };
          freeformType = body.freeformType or null;
        };
      parts = map open modules;
      declared = mergeOptions (map (part: part.options) parts);
      freeform = filter (one: one != null) (map (part: part.freeformType) parts);
      definitions = concatMap (part: spread part.config) parts;

      # The values below a path: those of options, and all values where the module is free-form.
      walk =
        path: tree: sets:
        let
          strange = filter (name: !(hasAttr name tree)) (unique (concatMap attrNames sets));
        in
        if strange != [ ] && !(path == prefix && freeform != [ ]) then
          throw "The option `${show (path ++ [ (head strange) ])}' does not exist"
        else
          (
            if strange == [ ] then
              { }
            else
              (head freeform).merge path (map (set: removeAttrs set (attrNames tree)) sets)
          )
          // mapAttrs (
            name: node:
            let
              at = path ++ [ name ];
              default = if node ? default then discharge (mkOverride 1500 node.default) else [ ];
              all = default ++ concatMap discharge (below name sets);
            in
            if kind node != "option" then
              walk at node (concatMap spread (below name sets))
            else if all == [ ] then
              throw "The option `${show at}' is used but not defined"
            else
              checked at node.type all
          ) tree;
      config = walk prefix declared definitions;
      # The definitions of options.
      annotate =
        tree: sets:
        mapAttrs (
          name: node:
          if kind node == "option" then
            node // { definitions = winning (concatMap discharge (below name sets)); }
          else
            annotate node (concatMap spread (below name sets))
        ) tree;
      options = annotate declared definitions;
    in
    {
      inherit config options;
    };

  lib = {
    inherit types mkOverride;
    mkOption = option: option // { _type = "option"; };
    mkEnableOption =
      what:
      lib.mkOption {
        type = types.bool;
        default = false;
        description = "Whether to enable ${what}.";
      };
    mkIf = condition: content: {
      _type = "if";
      inherit condition content;
    };
    mkMerge = contents: {
      _type = "merge";
      inherit contents;
    };
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
    literalExpression = text: text;
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    inherit concatMap;
    concatMapStringsSep =
      separator: f: list:
      concatStringsSep separator (map f list);
    imap0 = f: list: genList (index: f index (builtins.elemAt list index)) (length list);
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    genAttrs =
      names: f:
      listToAttrs (map (name: nameValue name (f name)) names);
    # Quotes every word. The real function does not quote plain words.
    escapeShellArg =
      text:
      if builtins.match "[[:alnum:],._+:@%/-]+" (toString text) != null then
        toString text
      else
        "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString text)}'";
    evalModules =
      {
        modules,
        specialArgs ? { },
      }:
      evaluate [ ] modules specialArgs;
  };
in
lib
