# Forces what `nix flake check` leaves alone: the packages' meta, the paths of the apps, the overlay, the module.
{ flake, system }:
let
  outputs = builtins.getFlake flake;
  inherit (outputs.inputs) nixpkgs;
  pkgs = nixpkgs.legacyPackages.${system};
  package = outputs.packages.${system}.banger;
  overlaid = outputs.overlays.default pkgs pkgs;
  moduleWith =
    resolver:
    outputs.nixosModules.default {
      inherit pkgs;
      inherit (nixpkgs) lib;
      config.programs.banger = {
        enable = true;
        inherit package;
        group = "banger";
        resolver.enable = resolver;
      };
    };
  module = moduleWith true;
  rule = builtins.head module.config.security.sudo.extraRules;
in
assert package.meta.mainProgram == "banger";
assert overlaid.banger.drvPath == package.drvPath;
assert module.options.programs.banger.enable.default == false;
assert module.options.programs.banger.resolver.enable.default == false;
assert (moduleWith false).config.systemd == { };
assert module.config.systemd.packages == [ package ];
assert builtins.attrNames module.config.systemd.paths == [ "banger-netd@var-lib-banger-dns" ];
assert
  map (command: command.command) rule.commands == [
    "${package}/bin/banger-netd"
    "${package}/bin/banger-disk dm create"
    "${package}/bin/banger-disk dm remove"
    "${package}/bin/banger-disk dm status"
    "${package}/bin/banger-disk dm gc"
  ];
builtins.deepSeq
  [
    package.meta
    module.options.programs.banger.group
    module.config
  ]
  {
    inherit (package) meta;
    apps = builtins.mapAttrs (
      _: app: builtins.unsafeDiscardStringContext app.program
    ) outputs.apps.${system};
  }
