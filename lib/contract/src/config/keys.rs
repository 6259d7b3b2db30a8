//! Everything that can stand in the file, and how its values are read and shown.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use toml::de::DeValue;

use super::{Config, Setting, Source};
use crate::policy::MTU;
use crate::types::{Cidr, Proxy, Size, Span};

/// The longest time to live and the longest deadline, seconds.
const MAX_TTL_S: u64 = 10 * 366 * 86_400;
const MAX_TIMEOUT_S: u64 = 86_400;
/// Memory of a VM, MiB.
const MEMORY_MIB: std::ops::RangeInclusive<u64> = 128..=1 << 20;
/// Root and work disk of a VM, bytes.
const DISK_BYTES: std::ops::RangeInclusive<u64> = 64 << 20..=16 << 40;

/// One key of the file.
#[derive(Debug)]
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// What it is about, for people.
    pub help: &'static str,
    /// What may stand there, for people.
    pub allowed: &'static str,
    /// What holds where [`Self::get`] gives `null`, for people.
    pub otherwise: &'static str,
    /// The environment variable that wins over the file.
    pub variable: Option<&'static str>,
    /// Takes the value over; `None`: it is not allowed.
    pub(super) set: fn(&mut Config, &DeValue<'_>) -> Option<()>,
    /// The value as people write it.
    pub(super) get: fn(&Config) -> Value,
}

impl Key {
    /// What holds where nobody says anything, for people.
    pub fn default_text(&self) -> String {
        match (self.get)(&Config::default()) {
            Value::Null => self.otherwise.to_owned(),
            value => value.to_string(),
        }
    }

    /// What holds for it.
    pub fn setting(&self, config: &Config, source: Source, place: Option<String>) -> Setting {
        let value = (self.get)(config);
        let otherwise = value.is_null().then(|| self.otherwise.to_owned());
        Setting { key: self.name.to_owned(), value, otherwise, source, place }
    }
}

/// Everything that can stand in the file.
pub const KEYS: [Key; 30] = [
    Key {
        name: "vm.image",
        help: "The image that a new VM boots.",
        allowed: "an image's name",
        otherwise: "",
        variable: None,
        set: |config, value| text(value).map(|image| config.image = image),
        get: |config| json!(config.image),
    },
    Key {
        name: "vm.kernel",
        help: "The kernel that a new VM boots, one that is not part of an image.",
        allowed: "a kernel's name, as banger kernel ls shows it",
        otherwise: "the image's own",
        variable: None,
        set: |config, value| text(value).map(|kernel| config.kernel = Some(kernel)),
        get: |config| json!(config.kernel),
    },
    Key {
        name: "vm.init",
        help: "Which init runs in the guest.",
        allowed: "\"lean\" or \"systemd\"",
        otherwise: "the image's",
        variable: None,
        set: |config, value| word(value).map(|init| config.init = Some(init)),
        get: |config| json!(config.init),
    },
    Key {
        name: "vm.vcpus",
        help: "Virtual CPUs.",
        allowed: "a number from 1 to 32",
        otherwise: "the host's, at most 2",
        variable: None,
        set: |config, value| {
            let vcpus = integer(value).filter(|n| (1..=32).contains(n))?;
            config.vcpus = u8::try_from(vcpus).ok();
            Some(())
        },
        get: |config| json!(config.vcpus),
    },
    Key {
        name: "vm.memory",
        help: "Memory.",
        allowed: "a size from \"128M\" to \"1024G\"",
        otherwise: "",
        variable: None,
        set: |config, value| text(value).and_then(memory_mib).map(|mib| config.memory_mib = mib),
        get: |config| size(Some(u64::from(config.memory_mib) << 20)),
    },
    Key {
        name: "vm.disk_size",
        help: "Size of the root filesystem; not less than what the image has in it.",
        allowed: "a size from \"64M\" to \"16T\"",
        otherwise: "the image's",
        variable: None,
        set: |config, value| disk_bytes(value).map(|bytes| config.disk_size_bytes = Some(bytes)),
        get: |config| size(config.disk_size_bytes),
    },
    Key {
        name: "vm.work_size",
        help: "Size of the work disk, which is the guest's /root; not less than what the image has in it.",
        allowed: "a size from \"64M\" to \"16T\"",
        otherwise: "the image's",
        variable: None,
        set: |config, value| disk_bytes(value).map(|bytes| config.work_size_bytes = Some(bytes)),
        get: |config| size(config.work_size_bytes),
    },
    Key {
        name: "vm.ttl",
        help: "How long a VM may run before it is stopped.",
        allowed: "a time such as \"90s\", \"2h\" or \"1h30m\"",
        otherwise: "never",
        variable: None,
        set: |config, value| value.as_str().and_then(ttl_seconds).map(|seconds| config.ttl_s = Some(seconds)),
        get: |config| time(config.ttl_s),
    },
    Key {
        name: "vm.nat",
        help: "Whether a guest with a tap gets out of its subnet, masqueraded.",
        allowed: "true or false",
        otherwise: "",
        variable: None,
        set: |config, value| value.as_bool().map(|nat| config.nat = nat),
        get: |config| json!(config.nat),
    },
    Key {
        name: "vm.egress",
        help: "What a guest may reach outside.",
        allowed: "\"open\", \"none\", or \"allow=\" and addresses or networks with or without a port, comma-separated",
        otherwise: "",
        variable: None,
        set: |config, value| text(value).map(|egress| config.egress = egress),
        get: |config| json!(config.egress.to_string()),
    },
    Key {
        name: "vm.open_firewall",
        help: "Whether other firewalls of the host, such as Docker's, are asked to let VMs through.",
        allowed: "true or false",
        otherwise: "",
        variable: Some("BANGER_OPEN_FIREWALL"),
        set: |config, value| value.as_bool().map(|open| config.open_firewall = open),
        get: |config| json!(config.open_firewall),
    },
    Key {
        name: "vm.proxy",
        help: "The http proxy that commands in guests are told, as guests reach it; see TRUST.",
        allowed: "an address such as \"http://proxy.example:3128\", perhaps with NAME:PASSWORD@ before the host",
        otherwise: "none",
        variable: Some("BANGER_VM_PROXY"),
        set: |config, value| text(value).map(|proxy| config.proxy = Some(proxy)),
        get: |config| json!(config.proxy.as_ref().map(Proxy::to_string)),
    },
    Key {
        name: "disk.backend",
        help: "How a VM's root is kept apart from its image.",
        allowed: "\"auto\", \"dm\", \"reflink\", \"overlay\" or \"copy\"",
        otherwise: "",
        variable: None,
        set: |config, value| word(value).map(|backend| config.disk_backend = backend),
        get: |config| json!(config.disk_backend),
    },
    Key {
        name: "disk.max_changes",
        help: "The most that the changes to a VM's root may take of the host, with the backends dm and overlay; auto then takes one of \
               these. A guest under overlay finds its disk full at that size; under dm its root is lost, so dm shows in doctor before.",
        allowed: "a size from \"64M\" to \"16T\"",
        otherwise: "as much as the root is large",
        variable: None,
        set: |config, value| disk_bytes(value).map(|bytes| config.max_changes_bytes = Some(bytes)),
        get: |config| size(config.max_changes_bytes),
    },
    Key {
        name: "vmm.kind",
        help: "Which virtual machine monitor runs VMs.",
        allowed: "\"auto\", \"firecracker\" or \"qemu\"",
        otherwise: "",
        variable: None,
        set: |config, value| word(value).map(|kind| config.vmm_kind = kind),
        get: |config| json!(config.vmm_kind),
    },
    Key {
        name: "vmm.firecracker_bin",
        help: "Firecracker's program.",
        allowed: "the absolute path of a program",
        otherwise: "firecracker in PATH",
        variable: None,
        set: |config, value| {
            let path = PathBuf::from(value.as_str()?);
            config.firecracker_bin = Some(path).filter(|path| path.is_absolute());
            config.firecracker_bin.as_ref().map(drop)
        },
        get: |config| json!(config.firecracker_bin),
    },
    Key {
        name: "vmm.force_kvm",
        help: "Whether KVM is used even where it seems not to work.",
        allowed: "true or false",
        otherwise: "",
        variable: None,
        set: |config, value| value.as_bool().map(|force| config.force_kvm = force),
        get: |config| json!(config.force_kvm),
    },
    Key {
        name: "vmm.ready_timeout",
        help: "How long a guest may take to be ready; then it is ended and the start has failed.",
        allowed: TIMEOUT,
        otherwise: "30s with KVM, 2m in software",
        variable: Some("BANGER_READY_TIMEOUT"),
        set: |config, value| timeout(value).map(|seconds| config.ready_timeout_s = Some(seconds)),
        get: |config| time(config.ready_timeout_s),
    },
    Key {
        name: "vmm.shutdown_timeout",
        help: "How long a guest may take to shut down once its agent was asked.",
        allowed: TIMEOUT,
        otherwise: "10s with KVM, 30s in software",
        variable: None,
        set: |config, value| timeout(value).map(|seconds| config.shutdown_timeout_s = Some(seconds)),
        get: |config| time(config.shutdown_timeout_s),
    },
    Key {
        name: "vmm.button_timeout",
        help: "How long it may take once its power button (under Firecracker: Ctrl-Alt-Del) was pressed after that.",
        allowed: TIMEOUT,
        otherwise: "as vmm.shutdown_timeout",
        variable: None,
        set: |config, value| timeout(value).map(|seconds| config.button_timeout_s = Some(seconds)),
        get: |config| time(config.button_timeout_s),
    },
    Key {
        name: "vmm.term_timeout",
        help: "How long the VMM may take to end on SIGTERM after that, before SIGKILL.",
        allowed: TIMEOUT,
        otherwise: "2s",
        variable: None,
        set: |config, value| timeout(value).map(|seconds| config.term_timeout_s = Some(seconds)),
        get: |config| time(config.term_timeout_s),
    },
    Key {
        name: "net.mode",
        help: "How guests reach the network; auto is a tap where the caller may make one, else user networking.",
        allowed: "\"auto\", \"tap\" or \"user\"",
        otherwise: "",
        variable: None,
        set: |config, value| {
            config.net_mode = if value.as_str() == Some("auto") { None } else { Some(word(value)?) };
            Some(())
        },
        get: |config| config.net_mode.map_or_else(|| json!("auto"), |mode| json!(mode)),
    },
    Key {
        name: "net.subnet",
        help: "The private network that the state directory's taps are in. Where none is named, a /24 of 10.213.0.0/16 or \
               172.29.0.0/16 (what banger-netd.toml(5) allows; for root 192.168.0.0/16, too) in which nothing of the host's lies is \
               taken and kept; while no VM has one of its addresses it gives way to a network that comes later.",
        allowed: "a private network from /16 to /30, such as \"10.50.0.0/24\"",
        otherwise: "a /24 that is free",
        variable: Some("BANGER_SUBNET"),
        set: |config, value| text(value).filter(is_subnet).map(|subnet| config.subnet = Some(subnet)),
        get: |config| json!(config.subnet),
    },
    Key {
        name: "net.mtu",
        help: "The largest packet on a guest's network, bytes: less where the way out of the host takes less, such as a tunnel. More than \
               1500 needs a tap.",
        allowed: "a number from 1280, IPv6's least, to 9000",
        otherwise: "1500",
        variable: None,
        set: |config, value| {
            let mtu = u16::try_from(integer(value)?).ok().filter(|mtu| MTU.contains(mtu))?;
            config.mtu = Some(mtu);
            Some(())
        },
        get: |config| json!(config.mtu),
    },
    Key {
        name: "images.catalog",
        help: "The catalog of images and kernels by short names. An image that is asked for and not there is taken from it.",
        allowed: "an address that begins with https:// or http://",
        otherwise: "none: nobody is asked",
        variable: Some("BANGER_CATALOG"),
        set: |config, value| {
            text(value).filter(|url: &String| is_address(url)).map(|url| config.catalog = Some(url))
        },
        get: |config| json!(config.catalog),
    },
    Key {
        name: "images.max_entries",
        help: "The most files that an image may have in all layers together, when it is imported or pulled.",
        allowed: "a number from 1 to 100000000",
        otherwise: "500000",
        variable: None,
        set: |config, value| {
            let entries = integer(value).filter(|n| (1..=100_000_000).contains(n))?;
            config.max_entries = Some(entries);
            Some(())
        },
        get: |config| json!(config.max_entries),
    },
    Key {
        name: "images.max_unpacked",
        help: "The most that the layers of an image may unpack to.",
        allowed: LIMIT,
        otherwise: "64G",
        variable: None,
        set: |config, value| limit_bytes(value).map(|bytes| config.max_unpacked_bytes = Some(bytes)),
        get: |config| size(config.max_unpacked_bytes),
    },
    Key {
        name: "images.max_size",
        help: "The largest root filesystem that is made of an image's layers.",
        allowed: LIMIT,
        otherwise: "64G",
        variable: None,
        set: |config, value| limit_bytes(value).map(|bytes| config.max_image_bytes = Some(bytes)),
        get: |config| size(config.max_image_bytes),
    },
    Key {
        name: "images.max_download",
        help: "The most that is downloaded for an image.",
        allowed: LIMIT,
        otherwise: "16G",
        variable: None,
        set: |config, value| limit_bytes(value).map(|bytes| config.max_download_bytes = Some(bytes)),
        get: |config| size(config.max_download_bytes),
    },
    Key {
        name: "trust.host_ca",
        help: "Which certificate authorities of the host guests, image builds and banger's own downloads trust: those that the host trusts \
               and its distribution does not, such as that of a company's proxy, or none. See TRUST.",
        allowed: "\"auto\" or \"none\"",
        otherwise: "",
        variable: None,
        set: |config, value| word(value).map(|choice| config.host_ca = choice),
        get: |config| json!(config.host_ca),
    },
];

/// What an image may take of the host, bytes.
const LIMIT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=16 << 40;
const LIMIT: &str = "a size from \"1M\" to \"16T\"";
const TIMEOUT: &str = "a time from \"1s\" to \"24h\"";

/// A string that is something else in writing.
fn text<T: std::str::FromStr>(value: &DeValue<'_>) -> Option<T> {
    value.as_str()?.parse().ok()
}

/// A word of an enumeration.
fn word<T: DeserializeOwned>(value: &DeValue<'_>) -> Option<T> {
    serde_json::from_value(json!(value.as_str()?)).ok()
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn disk_bytes(value: &DeValue<'_>) -> Option<u64> {
    text::<Size>(value).and_then(disk_size_bytes)
}

fn limit_bytes(value: &DeValue<'_>) -> Option<u64> {
    text::<Size>(value).map(Size::bytes).filter(|bytes| LIMIT_BYTES.contains(bytes))
}

/// A bare number is seconds.
fn timeout(value: &DeValue<'_>) -> Option<u64> {
    let text = value.as_str()?;
    seconds(text).filter(|seconds| (1..=MAX_TIMEOUT_S).contains(seconds))
}

/// Whoever asks there parses all of it.
fn is_address(text: &str) -> bool {
    (text.starts_with("https://") || text.starts_with("http://"))
        && text.chars().all(|c| c.is_ascii_graphic())
}

/// As `banger-netd` wants it: within RFC 1918, with room for a gateway and a guest.
fn is_subnet(subnet: &Cidr) -> bool {
    (16..=30).contains(&subnet.prefix_len()) && subnet.address().is_private()
}

/// MiB, where a VM can have so much memory.
pub fn memory_mib(size: Size) -> Option<u32> {
    let mib = size.bytes() >> 20;
    u32::try_from(mib).ok().filter(|_| MEMORY_MIB.contains(&mib))
}

/// Bytes, where a disk can be so large.
pub fn disk_size_bytes(size: Size) -> Option<u64> {
    Some(size.bytes()).filter(|bytes| DISK_BYTES.contains(bytes))
}

/// Seconds of a time such as `1h30m`; a bare number is seconds.
fn seconds(text: &str) -> Option<u64> {
    text.parse::<Span>().ok()?.whole_seconds()
}

/// Seconds of a time to live such as `1h30m`; a bare number is seconds.
pub fn ttl_seconds(text: &str) -> Option<u64> {
    seconds(text).filter(|seconds| (1..=MAX_TTL_S).contains(seconds))
}

fn size(bytes: Option<u64>) -> Value {
    json!(bytes.map(|bytes| Size::from_bytes(bytes).to_string()))
}

fn time(seconds: Option<u64>) -> Value {
    json!(seconds.map(|s| Span::from(Duration::from_secs(s)).to_string()))
}
