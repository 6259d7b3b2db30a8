//! A kernel's configuration: `config-<version>` as distributions ship it, or what the kernel carries in itself (IKCONFIG).

use std::collections::BTreeMap;
use std::io::Read;

/// The largest configuration that is read, bytes.
pub const MAX_BYTES: u64 = 4 << 20;

/// How an option is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// `=y`
    BuiltIn,
    /// `=m`
    Module,
}

/// The options that are `y` or `m`, without `CONFIG_`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kconfig(BTreeMap<String, Setting>);

impl Kconfig {
    /// Reads the text of a configuration. What is no option in it does not count.
    pub fn parse(text: &str) -> Self {
        let options = text.lines().filter_map(|line| {
            let (name, value) = line.trim().strip_prefix("CONFIG_")?.split_once('=')?;
            let setting = match value {
                "y" => Setting::BuiltIn,
                "m" => Setting::Module,
                _ => return None,
            };
            Some((name.to_owned(), setting))
        });
        Self(options.collect())
    }

    /// The configuration inside the ELF kernel (`CONFIG_IKCONFIG=y`): a gzip between two marks (kernel/configs.c).
    pub fn embedded(vmlinux: &[u8]) -> Option<Self> {
        let at = super::vmlinuz::find(vmlinux, b"IKCFG_ST")? + 8;
        let mut text = Vec::new();
        // What follows the stream is not its: the decoder ends where the stream does.
        flate2::read::GzDecoder::new(&vmlinux[at..]).take(MAX_BYTES).read_to_end(&mut text).ok()?;
        Some(Self::parse(&String::from_utf8_lossy(&text)))
    }

    /// How `option` (without `CONFIG_`) is set; `None`: not at all.
    pub fn get(&self, option: &str) -> Option<Setting> {
        self.0.get(option).copied()
    }

    /// Whether it holds any option at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TEXT: &str = "# CONFIG_OFF is not set\nCONFIG_NET=y\nCONFIG_EXT4_FS=m\nCONFIG_HZ=250\nnonsense\n";

    #[test]
    fn options_are_on_or_modules() {
        let config = Kconfig::parse(TEXT);
        assert_eq!(config.get("NET"), Some(Setting::BuiltIn));
        assert_eq!(config.get("EXT4_FS"), Some(Setting::Module));
        assert_eq!(config.get("OFF"), None);
        assert_eq!(config.get("HZ"), None);
    }

    #[test]
    fn a_kernel_may_carry_it() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(TEXT.as_bytes()).unwrap();
        let kernel =
            [b"\x7fELF IK IKCFG", &b"IKCFG_ST"[..], &gzip.finish().unwrap(), b"IKCFG_ED rest"].concat();
        assert_eq!(Kconfig::embedded(&kernel), Some(Kconfig::parse(TEXT)));
        assert_eq!(Kconfig::embedded(b"\x7fELF nothing"), None);
        assert_eq!(Kconfig::embedded(b"\x7fELF IKCFG_ST no gzip"), None);
    }
}
