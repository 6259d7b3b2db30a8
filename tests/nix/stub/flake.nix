# As much of nixpkgs as flake.nix uses, and not a name more: whatever is not here is an error. Its buildRustPackage compiles
# nothing; it runs the real postInstall on programs that are already built (BANGER_TEST_BIN_DIR, read impurely).
{
  outputs =
    { self }:
    let
      lib = {
        genAttrs =
          names: f:
          builtins.listToAttrs (
            map (name: {
              inherit name;
              value = f name;
            }) names
          );
        importTOML = path: builtins.fromTOML (builtins.readFile path);
        optionalString = condition: text: if condition then text else "";
        getExe' = package: name: "${package}/bin/${name}";
        makeBinPath =
          packages: builtins.concatStringsSep ":" (map (package: "${package.bin or package}/bin") packages);
        licenses.asl20.spdxId = "Apache-2.0";
        platforms.linux = [
          "x86_64-linux"
          "aarch64-linux"
        ];
        mkEnableOption = description: {
          inherit description;
          default = false;
        };
        mkOption =
          {
            type,
            default,
            description,
            defaultText ? null,
          }:
          {
            inherit
              type
              default
              description
              defaultText
              ;
          };
        mkIf = condition: content: if condition then content else { };
        literalExpression = text: text;
        types = {
          package = "package";
          str = "str";
        };
      };

      pkgsFor =
        system:
        let
          # A package that is only named, such as /stub/jq.
          named = name: {
            inherit name;
            outPath = "/stub/${name}";
          };
          made =
            name: attrs:
            derivation (
              {
                inherit name system;
                builder = "/bin/bash";
                args = [
                  "-euc"
                  ''echo > "$out"; exit 0''
                ];
              }
              // attrs
            );
          callPackage =
            f: given:
            let
              wanted = builtins.functionArgs f;
              # intersectAttrs would drop unknown names silently.
              from = builtins.mapAttrs (name: _: given.${name} or pkgs.${name}) wanted;
            in
            f from;
          pkgs =
            lib.genAttrs [
              "cargo"
              "cargo-deny"
              "cargo-nextest"
              "clippy"
              "firecracker"
              "git"
              "installShellFiles"
              "iproute2"
              "jq"
              "lvm2"
              "makeBinaryWrapper"
              "mandoc"
              "mmdebstrap"
              "nftables"
              "openssh"
              "openssl"
              "pkg-config"
              "qemu_kvm"
              "rustc"
              "rustfmt"
              "strace"
              "util-linux"
              "zlib"
            ] named
            // {
              inherit lib callPackage;
              # Its programs are in the output "bin".
              e2fsprogs = named "e2fsprogs" // {
                bin = named "e2fsprogs-bin";
              };
              glibc = named "glibc" // {
                static = named "glibc-static";
              };
              nixfmt = made "nixfmt" { };
              nixfmt-tree = made "nixfmt-tree" { };
              stdenv = {
                buildPlatform.canExecute = _: true;
                hostPlatform = { inherit system; };
              };
              runCommand =
                name: attrs: script:
                made name (attrs // { inherit script; });
              mkShell =
                {
                  inputsFrom,
                  packages,
                  OPENSSL_NO_VENDOR,
                  BANGER_GUEST_PREBUILT,
                }:
                made "shell" {
                  inherit OPENSSL_NO_VENDOR BANGER_GUEST_PREBUILT;
                  inputs = map (input: input.outPath) (inputsFrom ++ packages);
                };
              rustPlatform.buildRustPackage =
                {
                  pname,
                  version,
                  src,
                  cargoLock,
                  meta,
                  doCheck ? true,
                  cargoBuildFlags ? [ ],
                  buildType ? "release",
                  nativeBuildInputs ? [ ],
                  buildInputs ? [ ],
                  env ? { },
                  postInstall ? "",
                }:
                let
                  cargo = builtins.fromTOML (builtins.readFile (src + "/Cargo.toml"));
                  lock = builtins.fromTOML (builtins.readFile cargoLock.lockFile);
                in
                assert lock.version >= 3;
                assert buildType == "release" || cargo.profile ? ${buildType};
                assert builtins.all builtins.isString (builtins.attrValues env);
                made "${pname}-${version}" (
                  env
                  // {
                    inherit src postInstall pname;
                    inputs = map (input: "${input}") (nativeBuildInputs ++ buildInputs);
                    inherit doCheck cargoBuildFlags buildType;
                    binDir = builtins.getEnv "BANGER_TEST_BIN_DIR";
                    PATH = "/usr/sbin:/usr/bin:/sbin:/bin";
                    args = [
                      "-euc"
                      "source ${./build.sh}; exit 0"
                    ];
                  }
                )
                // {
                  inherit meta;
                };
            };
        in
        pkgs;
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ] pkgsFor;
    };
}
