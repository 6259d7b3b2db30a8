//! A guest as the tests play it: a network namespace of its own whose Ethernet card is joined to the VM's tap frame by frame,
//! as a VMM would join them.

#![allow(dead_code, reason = "each tier uses its part")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use nix::sched::{CloneFlags, setns, unshare};

use crate::support::{command, eventually};

#[repr(C)]
struct IfReq {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// Opens the tap `name` as Firecracker and QEMU do.
pub fn open_tap(name: &str) -> File {
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("there is /dev/net/tun");
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    let mut request = IfReq { name: [0; 16], flags, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one struct ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
    assert_eq!(result, 0, "{name}: {}", std::io::Error::last_os_error());
    tap
}

/// Copies frames until the process ends.
fn pump(mut from: File, mut to: File) {
    std::thread::spawn(move || {
        let mut frame = vec![0; 70_000];
        while let Ok(n) = from.read(&mut frame) {
            // A card that is down takes no frames.
            drop(to.write(&frame[..n]));
        }
    });
}

/// A network namespace, kept by its descriptor.
pub struct Namespace(File);

impl Namespace {
    /// A new one, with `set_up` run inside.
    pub fn new<T: Send>(set_up: impl FnOnce() -> T + Send) -> (Self, T) {
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("root may");
                let namespace = File::open("/proc/thread-self/ns/net").expect("there is /proc");
                (Self(namespace), set_up())
            });
            made.join().expect("no panic")
        })
    }

    /// Runs `work` inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("root may");
                work()
            });
            inside.join().expect("no panic")
        })
    }

    /// Runs a shell script inside, which must succeed.
    #[track_caller]
    pub fn sh(&self, script: &str) {
        let output = self.run(|| command("sh").args(["-ec", script]).output().expect("there is sh"));
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Moves the link `name` of this process's namespace inside.
    pub fn take_link(&self, name: &str) {
        let target = format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd());
        let output =
            command("ip").args(["link", "set", name, "netns", &target]).output().expect("there is ip");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The kernel lets frames through a bridge's port some time after it got its carrier: a guest's first question for a neighbour would
/// be lost, and it asks again after a second only.
pub fn wait_until_forwarding(tap: &str) {
    let state = || {
        let output = command("ip").args(["-d", "link", "show", tap]).output().expect("there is ip");
        String::from_utf8_lossy(&output.stdout).contains(" state forwarding ")
    };
    eventually("it is a forwarding port", state);
}

/// A guest with the card `eth0` on the tap `tap`, configured as banger-guest would.
pub fn boot(tap: &str, n: u8) -> Namespace {
    let (guest, card) = Namespace::new(|| open_tap("eth0"));
    let host = open_tap(tap);
    pump(card.try_clone().expect("a descriptor"), host.try_clone().expect("a descriptor"));
    pump(host, card);
    wait_until_forwarding(tap);
    guest.sh(&format!(
        "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
         echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
         ip link set lo up
         ip link set eth0 address 02:00:00:00:00:{n:02x} up
         ip address add 10.213.7.{n}/24 dev eth0
         ip route add default via 10.213.7.1"
    ));
    guest
}
