//! What a kernel must be built with so that a VM boots from it, by its configuration. Most of a VM's needs can be modules; what is
//! needed before the first of them can be loaded, and what no module can bring, is built in.

use super::arch;
use super::modules::WANTED;
use banger_formats::kconfig::{Kconfig, Setting};

/// What is built in: the initrd and what it mounts, programs and scripts, sshd's sockets and terminals.
const BUILT_IN: [&str; 12] = [
    "BLK_DEV_INITRD",
    "BINFMT_ELF",
    "BINFMT_SCRIPT",
    "DEVTMPFS",
    "PROC_FS",
    "SYSFS",
    "TMPFS",
    "NET",
    "INET",
    "UNIX",
    "UNIX98_PTYS",
    "MULTIUSER",
];

/// The options without which no VM boots, or none with one of the two VMMs, that `config` has not: with `CONFIG_`, in the words
/// of a message. None: the kernel will do. `modules`: whether the kernel's modules are at hand.
pub(super) fn missing(config: &Kconfig, modules: bool) -> Vec<String> {
    let mut missing = Vec::new();
    for option in BUILT_IN.iter().chain(&arch::CONSOLES) {
        match config.get(option) {
            Some(Setting::BuiltIn) => {}
            Some(Setting::Module) => missing.push(format!("CONFIG_{option}=y (it is a module)")),
            None => missing.push(format!("CONFIG_{option}")),
        }
    }
    for (_, option, _) in WANTED.iter().filter(|(.., required)| *required) {
        match config.get(option) {
            Some(Setting::Module) if !modules => {
                missing.push(format!("CONFIG_{option}=y (it is a module, and no modules are given)"));
            }
            Some(_) => {}
            None => missing.push(format!("CONFIG_{option}")),
        }
    }
    if modules && config.get("MODULES").is_none() {
        missing.push("CONFIG_MODULES".to_owned());
    }
    if arch::DISCOVERY.iter().all(|option| config.get(option) != Some(Setting::BuiltIn)) {
        let names = arch::DISCOVERY.map(|option| format!("CONFIG_{option}")).join(" or ");
        missing.push(names);
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration with all that a VM needs, less the lines that begin with `without`, and with `and`.
    fn config(without: &str, and: &str) -> Kconfig {
        let built_in = BUILT_IN.iter().chain(&arch::CONSOLES).chain(&arch::DISCOVERY);
        let lines = built_in.map(|option| format!("CONFIG_{option}=y\n"));
        let modules = WANTED.iter().map(|(_, option, _)| format!("CONFIG_{option}=m\n"));
        let text: String = lines
            .chain(modules)
            .chain(["CONFIG_MODULES=y\n".to_owned()])
            .filter(|line| without.is_empty() || !line.starts_with(&format!("CONFIG_{without}=")))
            .collect();
        Kconfig::parse(&(text + and))
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing(&config("", ""), true), Vec::<String>::new());
        let table = [
            ("DEVTMPFS", "", "CONFIG_DEVTMPFS"),
            ("UNIX", "CONFIG_UNIX=m\n", "CONFIG_UNIX=y (it is a module)"),
            ("VIRTIO_BLK", "", "CONFIG_VIRTIO_BLK"),
            ("MODULES", "", "CONFIG_MODULES"),
        ];
        for (without, and, told) in table {
            assert_eq!(missing(&config(without, and), true), [told]);
        }
        // A random number generator is good to have, no more.
        assert_eq!(missing(&config("HW_RANDOM_VIRTIO", ""), true), Vec::<String>::new());
        let bare = missing(&config("", ""), false);
        assert!(bare.iter().any(|option| option.starts_with("CONFIG_EXT4_FS=y")), "{bare:?}");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn one_way_to_find_devices_is_enough() {
        let other = "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y\n";
        assert_eq!(missing(&config("ACPI", other), true), Vec::<String>::new());
        assert!(missing(&Kconfig::default(), true).last().unwrap().contains("CONFIG_ACPI or CONFIG_VIRTIO"));
    }
}
