//! Loads the kernel's modules: those that the VM has a device or a use for, and what these need. Under emulation every module
//! costs milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::time::Duration;

use crate::clock::now_us;
use crate::error::{Context, Error};
use crate::{halt, sys};
use banger_protocol::guest::MODULES_LIST;

/// The virtio device id of a disk.
const BLOCK: u32 = 2;
/// How long the devices may take to appear, microseconds.
const DEVICES_WITHIN_US: u64 = 2_000_000;

/// The modules in the initrd, and those that have been loaded.
pub struct Modules {
    known: BTreeMap<String, Entry>,
    loaded: BTreeSet<String>,
}

struct Entry {
    path: String,
    needs: Vec<String>,
}

impl Modules {
    /// Reads the list.
    pub fn read() -> Result<Self, Error> {
        let path = format!("/{MODULES_LIST}");
        let text = fs::read_to_string(&path).context(|| format!("cannot read {path}"))?;
        let known = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            Some((words.next()?, Entry { path: words.next()?, needs: words.collect() }))
        });
        Ok(Self { known: known.collect(), loaded: BTreeSet::new() })
    }

    /// Loads a module after all that it needs. One that is not in the list is built into the kernel. A module that cannot be loaded
    /// is told on the console: whether that matters shows where it is used (an accelerated checksum may find no such CPU).
    pub fn load(&mut self, name: &str) {
        if !self.loaded.insert(name.to_owned()) {
            return;
        }
        let Some(entry) = self.known.get(name) else { return };
        let path = format!("/{}", entry.path);
        for need in entry.needs.clone() {
            self.load(&need);
        }
        let result = File::open(&path).and_then(|file| sys::load_module(&file));
        if let Err(error) = result.or_else(|error| match error.raw_os_error() {
            Some(libc::EEXIST) => Ok(()),
            _ => Err(error),
        }) {
            halt::say(&format!("cannot load the module {name}: {error}"));
        }
    }

    /// Loads the drivers of the virtio devices that are there: on PCI, or else where the platform announces them (Firecracker).
    pub fn load_virtio(&mut self) {
        self.load("virtio_pci");
        if virtio_devices().is_empty() {
            self.load("virtio_mmio");
        }
        // Devices are there when their bus driver is, on every kernel seen so far; nothing promises it.
        let deadline = now_us() + DEVICES_WITHIN_US;
        while !virtio_devices().contains(&BLOCK) && now_us() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        for device in virtio_devices() {
            match device {
                1 => self.load("virtio_net"),
                BLOCK => self.load("virtio_blk"),
                3 => self.load("virtio_console"),
                4 => self.load("virtio_rng"),
                19 => self.load("vmw_vsock_virtio_transport"),
                _ => {}
            }
        }
    }
}

/// The device ids (virtio 1.2, section 5) on the virtio bus: disks first, since everything waits for them.
pub fn virtio_devices() -> Vec<u32> {
    let entries = fs::read_dir("/sys/bus/virtio/devices").into_iter().flatten().flatten();
    let id = |path: std::path::PathBuf| {
        let text = fs::read_to_string(path.join("device")).ok()?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    let mut ids: Vec<u32> = entries.filter_map(|entry| id(entry.path())).collect();
    ids.sort_by_key(|id| (*id != BLOCK, *id));
    ids.dedup();
    ids
}
