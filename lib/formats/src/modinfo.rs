//! What a kernel module says of itself: the strings of its ELF section `.modinfo`, which modinfo(8) prints.

/// The largest number of sections that is looked through; modules have some dozens.
const MAX_SECTIONS: usize = 4096;

/// A module's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modinfo {
    /// The modules that are loaded before it.
    pub depends: Vec<String>,
    /// What it asks modprobe for before it (`softdep=pre: …`): names of modules or their aliases.
    pub wants: Vec<String>,
    /// Its further names, device patterns among them.
    pub aliases: Vec<String>,
    /// The kernel it was built for, the first word of its `vermagic`.
    pub release: Option<String>,
}

/// What the module `object` says of itself. `None`: it is no 64-bit little-endian ELF with that section.
pub fn parse(object: &[u8]) -> Option<Modinfo> {
    let mut info = Modinfo::default();
    for entry in section(object, b".modinfo")?.split(|&byte| byte == 0) {
        let text = String::from_utf8_lossy(entry);
        let Some((key, value)) = text.split_once('=') else { continue };
        match key {
            "depends" => info.depends.extend(value.split(',').filter(|d| !d.is_empty()).map(str::to_owned)),
            "alias" => info.aliases.push(value.to_owned()),
            "softdep" => {
                let before = value.split_whitespace().skip_while(|word| *word != "pre:").skip(1);
                info.wants.extend(before.take_while(|word| *word != "post:").map(str::to_owned));
            }
            "vermagic" => info.release = value.split(' ').next().map(str::to_owned),
            _ => {}
        }
    }
    Some(info)
}

/// The content of a section (elf(5)).
fn section<'a>(elf: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    // Class 2 is 64 bits, data 1 little-endian: all that banger boots.
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let headers = usize::try_from(u64_at(elf, 0x28)?).ok()?;
    let (entry_size, count, names) = (u16_at(elf, 0x3a)?, u16_at(elf, 0x3c)?, u16_at(elf, 0x3e)?);
    let header = |index: usize| -> Option<&[u8]> {
        let at = headers.checked_add(index.checked_mul(entry_size.into())?)?;
        elf.get(at..at.checked_add(0x40)?)
    };
    let names = content(elf, header(names.into())?)?;
    for index in 0..usize::from(count).min(MAX_SECTIONS) {
        let header = header(index)?;
        let at = usize::try_from(u32::from_le_bytes(header[..4].try_into().ok()?)).ok()?;
        let own = names.get(at..).and_then(|rest| rest.split(|&byte| byte == 0).next());
        if own == Some(name) {
            return content(elf, header);
        }
    }
    None
}

fn content<'a>(elf: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let (at, size) = (u64_at(header, 0x18)?, u64_at(header, 0x20)?);
    let (at, end) = (usize::try_from(at).ok()?, usize::try_from(at.checked_add(size)?).ok()?);
    elf.get(at..end)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use banger_test_support::kernel::module;

    use super::*;

    #[test]
    fn a_module_tells_what_it_needs() {
        let elf = module(&[
            "softdep=pre: crypto-crc32c post: late",
            "alias=fs-ext4",
            "alias=ext3",
            "depends=mbcache,jbd2",
            "vermagic=6.1.0-1-amd64 SMP preempt",
        ]);
        let info = parse(&elf).unwrap();
        assert_eq!(info.depends, ["mbcache", "jbd2"]);
        assert_eq!(info.wants, ["crypto-crc32c"]);
        assert_eq!(info.aliases, ["fs-ext4", "ext3"]);
        assert_eq!(info.release.as_deref(), Some("6.1.0-1-amd64"));
        assert_eq!(parse(&module(&["depends="])).unwrap(), Modinfo::default());
    }

    #[test]
    fn hostile_objects_are_no_modules() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"\x7fELF"), None);
        let good = module(&["depends=a"]);
        for cut in 0..good.len() {
            parse(&good[..cut]);
        }
        for at in [0x28, 0x3a, 0x3c, 0x3e] {
            let mut bad = good.clone();
            bad[at..at + 2].fill(0xff);
            parse(&bad);
        }
        let mut far = good.clone();
        far[0x28..0x30].fill(0xff);
        assert_eq!(parse(&far), None);
    }
}
