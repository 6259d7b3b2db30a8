{
  description = "Disposable, hardware-isolated Linux VMs around a git checkout";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;

      forEachSystem = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ];

      programs = [
        "banger"
        "banger-netd"
        "banger-disk"
        "banger-fc"
        "banger-qemu"
        "banger-ws"
      ];

      inherit ((lib.importTOML ./Cargo.toml).workspace.package) version;

      # The program inside the VM is static. The glibc way needs nothing but libc.a; pkgsStatic would first build a Rust
      # for musl. buildRustPackage gives --target, so the flag does not reach build scripts.
      guest =
        {
          lib,
          rustPlatform,
          glibc,
        }:
        rustPlatform.buildRustPackage {
          pname = "banger-guest";
          inherit version;
          src = ./.;
          cargoLock.lockFile = ./Cargo.lock;
          cargoBuildFlags = [
            "--package"
            "banger-guest"
          ];
          buildType = "guest";
          buildInputs = [ glibc.static ];
          env.RUSTFLAGS = "-Ctarget-feature=+crt-static";
          doCheck = false;
          meta = {
            description = "The static program inside a banger VM";
            license = lib.licenses.asl20;
            platforms = lib.platforms.linux;
            mainProgram = "banger-guest";
          };
        };

      package =
        {
          lib,
          stdenv,
          rustPlatform,
          installShellFiles,
          makeBinaryWrapper,
          pkg-config,
          openssl,
          zlib,
          banger-guest,
          e2fsprogs,
          firecracker,
          git,
          iproute2,
          lvm2,
          mmdebstrap,
          nftables,
          openssh,
          qemu_kvm,
          util-linux,
        }:
        rustPlatform.buildRustPackage {
          pname = "banger";
          inherit version;
          src = ./.;
          cargoLock.lockFile = ./Cargo.lock;

          nativeBuildInputs = [
            installShellFiles
            makeBinaryWrapper
            pkg-config
          ];
          buildInputs = [
            openssl
            zlib
          ];
          env = {
            # libssh2 stays the crate's own, which has the fix for CVE-2026-55200; only OpenSSL is the system's.
            OPENSSL_NO_VENDOR = "1";
            BANGER_GUEST_PREBUILT = lib.getExe' banger-guest "banger-guest";
            # Where the programs that run as root for others look for programs, whatever PATH they are given: nft is the package's, what
            # belongs to the host's firewalls and system bus is the host's.
            BANGER_ROOT_PATH = "${lib.makeBinPath [ nftables ]}:/run/current-system/sw/bin:/usr/sbin:/usr/bin:/sbin:/bin";
          };

          # The tests want a checkout, namespaces and virtual machines: tests/run.
          doCheck = false;

          # The user's own ssh and git win: they know the user's configuration.
          postInstall = ''
            installManPage man/*.[1-9]
            install -D -m 644 -t "$out/lib/systemd/system" bins/banger-netd/banger-netd@.{path,service}
            substituteInPlace "$out/lib/systemd/system/banger-netd@.service" \
              --replace-fail /usr/bin/banger-netd "$out/bin/banger-netd"
          ''
          + lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
            for program in ${toString programs}; do
              for shell in bash fish zsh; do
                "$out/bin/$program" --generate "completion-$shell" > "$program.$shell"
              done
              installShellCompletion --cmd "$program" \
                --bash "$program.bash" --fish "$program.fish" --zsh "$program.zsh"
            done
          ''
          + ''
            for program in ${toString programs}; do
              wrapProgram "$out/bin/$program" \
                --prefix PATH : ${
                  lib.makeBinPath [
                    e2fsprogs
                    firecracker
                    iproute2
                    lvm2
                    mmdebstrap
                    nftables
                    qemu_kvm
                    util-linux
                  ]
                } \
                --suffix PATH : ${
                  lib.makeBinPath [
                    git
                    openssh
                  ]
                }
            done
          '';

          meta = {
            description = "Disposable, hardware-isolated Linux VMs around a git checkout";
            license = lib.licenses.asl20;
            platforms = lib.platforms.linux;
            mainProgram = "banger";
          };
        };

      packagesOf =
        callPackage:
        let
          banger-guest = callPackage guest { };
        in
        {
          inherit banger-guest;
          banger = callPackage package { inherit banger-guest; };
        };

      # What an ordinary user needs for taps and device-mapper snapshots: membership in one group.
      module =
        {
          config,
          lib,
          pkgs,
          ...
        }:
        let
          cfg = config.programs.banger;
        in
        {
          options.programs.banger = {
            enable = lib.mkEnableOption "banger, disposable virtual machines around a git checkout";
            package = lib.mkOption {
              type = lib.types.package;
              default = self.packages.${pkgs.stdenv.hostPlatform.system}.banger;
              defaultText = lib.literalExpression "the flake's package";
              description = "The package of banger.";
            };
            group = lib.mkOption {
              type = lib.types.str;
              default = "banger";
              description = ''
                The group whose members may run banger-netd and the verb dm of banger-disk as root, without a password. What they
                may have of the host is what /etc/banger/netd.toml says: banger-netd.toml(5).
              '';
            };
            resolver.enable = lib.mkEnableOption "systemd as the keeper of the resolver of root's VMs, NAME.vm";
          };

          config = lib.mkIf cfg.enable {
            environment.systemPackages = [ cfg.package ];
            boot.kernelModules = [
              "dm_snapshot"
              "loop"
              "tun"
            ];
            users.groups.${cfg.group} = { };
            security.sudo.extraRules = [
              {
                groups = [ cfg.group ];
                commands =
                  map
                    (command: {
                      command = "${cfg.package}/bin/${command}";
                      options = [ "NOPASSWD" ];
                    })
                    [
                      "banger-netd"
                      # Nothing follows: the request comes on standard input.
                      "banger-disk dm create"
                      "banger-disk dm remove"
                      "banger-disk dm status"
                      "banger-disk dm gc"
                    ];
              }
            ];
            systemd = lib.mkIf cfg.resolver.enable {
              packages = [ cfg.package ];
              # The instance is the escaped directory of the names.
              paths."banger-netd@var-lib-banger-dns" = {
                overrideStrategy = "asDropin";
                wantedBy = [ "paths.target" ];
              };
            };
          };
        };
    in
    {
      packages = forEachSystem (
        system:
        let
          packages = packagesOf nixpkgs.legacyPackages.${system}.callPackage;
        in
        packages // { default = packages.banger; }
      );

      # nix run .#banger-disk
      apps = forEachSystem (
        system:
        let
          app = name: {
            type = "app";
            program = "${self.packages.${system}.banger}/bin/${name}";
          };
        in
        lib.genAttrs programs app // { default = app "banger"; }
      );

      overlays.default = final: _prev: packagesOf final.callPackage;

      nixosModules.default = module;

      devShells = forEachSystem (
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
        in
        {
          default = pkgs.mkShell {
            inputsFrom = [ self.packages.${system}.banger ];
            packages = with pkgs; [
              cargo
              cargo-deny
              cargo-nextest
              clippy
              jq
              mandoc
              nixfmt
              rustc
              rustfmt
              strace
            ];
            OPENSSL_NO_VENDOR = "1";
            # To work on the guest's program itself unset it and bring libc.a (glibc.static) or the musl target.
            BANGER_GUEST_PREBUILT = lib.getExe' self.packages.${system}.banger-guest "banger-guest";
          };
        }
      );

      checks = forEachSystem (
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
        in
        {
          inherit (self.packages.${system}) banger;
          format = pkgs.runCommand "banger-format" { nativeBuildInputs = [ pkgs.nixfmt ]; } ''
            nixfmt --check ${./flake.nix} ${./tests/nix/stub/flake.nix} ${./tests/nix/probe.nix}
            touch "$out"
          '';
        }
      );

      formatter = forEachSystem (system: nixpkgs.legacyPackages.${system}.nixfmt-tree);
    };
}
