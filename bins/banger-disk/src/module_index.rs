//! What is known of a kernel's modules: where each lies, what it needs, what is built in. depmod(8) wrote it down, or else the
//! modules say it themselves.
//!
//! The files read here come out of an image or a package, so their paths are confined to the directory and their sizes are bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::modules::{Module, ModulesError};
use banger_contract::{Coded, ErrorCode};
use banger_formats::modinfo;

/// The largest module, and the largest file of depmod's, bytes.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The most modules that a kernel has; Debian's has 4000.
const MAX_MODULES: usize = 50_000;

/// How deep their directories are nested.
const MAX_DEPTH: usize = 32;

/// What the names of modules end with.
const SUFFIXES: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

/// What is known of a kernel's modules.
pub(super) struct Index<'a> {
    root: &'a Path,
    /// Name → path below `root`.
    pub(super) paths: BTreeMap<String, String>,
    /// Name → names that must be there before it.
    dependencies: BTreeMap<String, Vec<String>>,
    pub(super) built_in: BTreeSet<String>,
}

impl<'a> Index<'a> {
    /// What depmod wrote below `root`; where it did not run, what the modules in `wanted` and those that they need say of themselves.
    pub(super) fn read(root: &'a Path, wanted: &[&str]) -> Result<Self, ModulesError> {
        let mut index =
            Self { root, paths: BTreeMap::new(), dependencies: BTreeMap::new(), built_in: BTreeSet::new() };
        index.built_in.extend(optional_text(root, "modules.builtin")?.lines().map(module_name));
        match text(root, "modules.dep") {
            Ok(dep) => index.add_depmod(&dep)?,
            Err(error) if error.code() == ErrorCode::NotFound => index.add_own_words(wanted)?,
            Err(error) => return Err(error),
        }
        Ok(index)
    }

    /// modules.dep(5) and its companions.
    fn add_depmod(&mut self, dep: &str) -> Result<(), ModulesError> {
        for line in dep.lines() {
            let Some((path, needs)) = line.split_once(':') else { continue };
            let name = module_name(path);
            let needs = needs.split_whitespace().map(module_name).collect();
            self.paths.insert(name.clone(), path.trim().to_owned());
            self.dependencies.insert(name, needs);
        }
        self.add_soft_dependencies(&optional_text(self.root, "modules.softdep")?)
    }

    /// The same without depmod, as packages bring the modules: their scripts run it where they are installed.
    fn add_own_words(&mut self, wanted: &[&str]) -> Result<(), ModulesError> {
        self.find_modules("", 0)?;
        let mut queue: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let mut aliases = None;
        while let Some(name) = queue.pop() {
            let Some(path) = self.paths.get(&name).filter(|_| !self.dependencies.contains_key(&name)) else {
                continue;
            };
            let info = modinfo::parse(&decompressed(self.root, path)?).unwrap_or_default();
            let mut needs: Vec<String> = info.depends.iter().map(|need| module_name(need)).collect();
            for soft in info.wants.iter().map(|soft| module_name(soft)) {
                if self.paths.contains_key(&soft) {
                    needs.push(soft);
                } else if !self.built_in.contains(&soft) {
                    let aliases = match &aliases {
                        Some(known) => known,
                        None => aliases.insert(self.own_aliases()?),
                    };
                    needs.extend(aliases.get(&soft).into_iter().flatten().cloned());
                }
            }
            queue.extend(needs.iter().cloned());
            self.dependencies.insert(name, needs);
        }
        Ok(())
    }

    /// Fills `paths` with the modules below `directory`, a path below the root or nothing. No link is followed.
    fn find_modules(&mut self, directory: &str, depth: usize) -> Result<(), ModulesError> {
        let path = self.root.join(directory);
        let error = |source| ModulesError::Read { path: path.clone(), source };
        if depth > MAX_DEPTH {
            return Err(error(io::Error::other("directories are nested too deeply")));
        }
        for entry in std::fs::read_dir(&path).map_err(error)? {
            let entry = entry.map_err(error)?;
            let name = entry.file_name();
            // No kernel has a module whose name is not text.
            let Some(name) = name.to_str() else { continue };
            let below = if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
            let kind = entry.file_type().map_err(error)?;
            if kind.is_dir() {
                self.find_modules(&below, depth + 1)?;
            } else if kind.is_file() && SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
                self.paths.insert(module_name(name), below);
            }
            if self.paths.len() > MAX_MODULES {
                return Err(error(io::Error::other(format!("there are more than {MAX_MODULES} modules"))));
            }
        }
        Ok(())
    }

    /// The further names of the modules that others ask for by such a name: ciphers and checksums, which stand in three directories.
    /// To read all modules would take many times as long.
    fn own_aliases(&self) -> Result<BTreeMap<String, Vec<String>>, ModulesError> {
        let mut aliases: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let places = ["kernel/arch/", "kernel/crypto/", "kernel/lib/"];
        for (name, path) in self.paths.iter().filter(|(_, path)| places.iter().any(|p| path.starts_with(p))) {
            let info = modinfo::parse(&decompressed(self.root, path)?).unwrap_or_default();
            for alias in info.aliases.iter().filter(|alias| !is_pattern(alias)) {
                aliases.entry(module_name(alias)).or_default().push(name.clone());
            }
        }
        Ok(aliases)
    }

    /// `softdep ext4 pre: crc32c`: what a module asks modprobe for while it runs. An initramfs has no modprobe.
    fn add_soft_dependencies(&mut self, softdep: &str) -> Result<(), ModulesError> {
        let aliases = aliases(&optional_text(self.root, "modules.alias")?);
        for line in softdep.lines() {
            let mut words = line.split_whitespace();
            let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { continue };
            let before = words.skip_while(|w| *w != "pre:").skip(1).take_while(|w| *w != "post:");
            let resolved = before.flat_map(|soft| {
                let name = module_name(soft);
                aliases.get(&name).cloned().unwrap_or_else(|| vec![name])
            });
            let known: Vec<String> = resolved.filter(|name| self.paths.contains_key(name)).collect();
            self.dependencies.entry(module_name(module)).or_default().extend(known);
        }
        Ok(())
    }

    /// Appends `name` after everything that it needs. A cycle ends where it began.
    pub(super) fn visit(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
        if !seen.insert(name.to_owned()) {
            return;
        }
        for need in self.dependencies.get(name).into_iter().flatten() {
            self.visit(need, seen, order);
        }
        if self.paths.contains_key(name) {
            order.push(name.to_owned());
        }
    }

    /// A module of `paths`, with what it needs of them.
    pub(super) fn load(&self, name: &str) -> Result<Module, ModulesError> {
        let path = &self.paths[name];
        let is_packed = |need: &&String| self.paths.contains_key(*need) && *need != name;
        let dependencies = self.dependencies.get(name).into_iter().flatten().filter(is_packed).cloned();
        let bytes = decompressed(self.root, path)?;
        Ok(Module { name: name.to_owned(), dependencies: dependencies.collect(), bytes })
    }
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko.xz` → `virtio_rng`.
fn module_name(path: &str) -> String {
    let file = path.trim().rsplit('/').next().unwrap_or_default();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

/// `alias crc32c crc32c_generic`: names only, no patterns.
fn aliases(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut aliases: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some("alias"), Some(alias), Some(module)) = (words.next(), words.next(), words.next())
            && !is_pattern(alias)
        {
            aliases.entry(module_name(alias)).or_default().push(module_name(module));
        }
    }
    aliases
}

/// Whether an alias is a pattern for devices.
fn is_pattern(alias: &str) -> bool {
    alias.contains([':', '*', '?', '['])
}

/// Opens a file below `root` without following any link there.
fn open(root: &Path, path: &str) -> Result<File, ModulesError> {
    let error = |errno: rustix::io::Errno| match errno {
        rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => ModulesError::Path(path.to_owned()),
        errno => ModulesError::Read { path: root.join(path), source: errno.into() },
    };
    let directory = openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(error)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat2(directory, path, flags, Mode::empty(), resolve).map(File::from).map_err(error)
}

fn text(root: &Path, name: &str) -> Result<String, ModulesError> {
    let bytes = bounded(&root.join(name), open(root, name)?)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn optional_text(root: &Path, name: &str) -> Result<String, ModulesError> {
    match text(root, name) {
        Err(error) if error.code() == ErrorCode::NotFound => Ok(String::new()),
        other => other,
    }
}

fn decompressed(root: &Path, path: &str) -> Result<Vec<u8>, ModulesError> {
    let file = open(root, path)?;
    let shown = root.join(path);
    match path.rsplit('.').next() {
        Some("xz") => bounded(&shown, liblzma::read::XzDecoder::new(file)),
        Some("gz") => bounded(&shown, flate2::read::GzDecoder::new(file)),
        Some("zst") => {
            let read = |source| ModulesError::Read { path: shown.clone(), source };
            bounded(&shown, zstd::stream::read::Decoder::new(file).map_err(read)?)
        }
        _ => bounded(&shown, file),
    }
}

/// All of `source`, at most [`MAX_FILE_BYTES`].
fn bounded(path: &Path, source: impl Read) -> Result<Vec<u8>, ModulesError> {
    let mut bytes = Vec::new();
    let read = source.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    let checked = read.and_then(|n| match n as u64 > MAX_FILE_BYTES {
        true => Err(io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes"))),
        false => Ok(bytes),
    });
    checked.map_err(|source| ModulesError::Read { path: path.to_owned(), source })
}
