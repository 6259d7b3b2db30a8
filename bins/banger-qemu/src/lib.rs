//! QEMU: a stock machine with virtio devices, told what to do by its command line and QMP.

pub mod cli;
mod qmp;

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::qmp::{Qmp, QmpError};
use banger_contract::inside::DiskIo;
use banger_contract::policy::EgressPolicy;
use banger_contract::record::{Accel, NetMode, Protocol, VmmKind};
use banger_contract::{Coded, ErrorCode};
use banger_host::kvm;
use banger_host::net::unix;
use banger_host::process::exec::{Exec, ExecError};
use banger_protocol::guest::{EXEC_PORT_PREFIX, EXEC_PORTS, PORT_NAME};
use banger_state::dir::{EXEC_SOCKETS, VmDir};
use banger_vmm::arch;
use banger_vmm::monitor::{Change, Channel, Launch, Machine, Monitor, MonitorError, Process};

/// How many virtio-serial ports there can be: the console's, which the kernel has to have, the agent's, those for commands.
const SERIAL_PORTS: usize = 2 + EXEC_PORTS;
/// The QMP socket in the VM's directory.
const API_SOCKET: &str = "api.sock";

/// Why QEMU does not run the VM.
#[derive(Debug, Error)]
pub enum QemuError {
    /// The program is missing or does not run.
    #[error("cannot run QEMU")]
    Program(#[source] ExecError),
    /// There is no tap to use.
    #[error("the record's section \"net\" names no tap")]
    NoTap,
    /// A host port that user networking is to forward is taken.
    #[error("cannot listen on {host}:{port} ({protocol}), which the VM's port {guest_port} is published on")]
    Port {
        /// The host's address.
        host: Ipv4Addr,
        /// The host's port.
        port: u16,
        /// The guest's port.
        guest_port: u16,
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that QEMU is to open cannot be opened.
    #[error("cannot open the {what} {path:?}")]
    File {
        /// Kernel, initrd or disk.
        what: &'static str,
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket cannot be made.
    #[error("cannot make a socket for QEMU in the VM's directory")]
    Socket(#[source] io::Error),
    /// It has no such limit.
    #[error("QEMU has no limit for what goes through a network")]
    NetRate,
    /// QMP fails.
    #[error("cannot direct QEMU")]
    Qmp(#[from] QmpError),
    /// QEMU said why it ends.
    #[error("QEMU cannot run the VM: {0}")]
    Said(String),
}

impl Coded for QemuError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Program(ExecError::NotFound(_)) => ErrorCode::Unsupported,
            Self::NoTap => ErrorCode::BadInput,
            Self::NetRate => ErrorCode::Unsupported,
            Self::Port { source, .. } if source.kind() == io::ErrorKind::AddrInUse => ErrorCode::InUse,
            Self::Port { source, .. } | Self::File { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                ErrorCode::Denied
            }
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorCode::NotFound,
            _ => ErrorCode::Failed,
        }
    }

    fn details(&self) -> Map<String, Value> {
        match self {
            Self::Port { port, .. } => Map::from_iter([("host_port".to_owned(), (*port).into())]),
            Self::File { path, .. } => Map::from_iter([("path".to_owned(), path.as_str().into())]),
            _ => Map::new(),
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Program(ExecError::NotFound(_)) => {
                "install QEMU's system emulator (Debian: qemu-system-x86)"
            }
            Self::NoTap => "run banger-netd attach before this stage",
            Self::NetRate => "leave --net-rate out, or use Firecracker (--vmm firecracker)",
            Self::Port { .. } => "end what listens there, or attach the network again for another port",
            Self::File { what: "kernel", .. } => "the image may have been deleted: see banger image ls",
            Self::File { .. } => "run banger-disk attach before this stage",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// The monitor `qemu`.
#[derive(Debug, Clone, Copy)]
pub struct Qemu;

impl Monitor for Qemu {
    fn kind(&self) -> VmmKind {
        VmmKind::Qemu
    }

    fn program(&self) -> &'static str {
        arch::QEMU
    }

    fn version(&self) -> Result<String, MonitorError> {
        let exec =
            Exec::new(arch::QEMU).arg("--version").deadline(Duration::from_secs(10)).stdout_limit(4096);
        let text = exec.run().map_err(|e| Box::new(QemuError::Program(e)) as MonitorError)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(text.split_whitespace().nth(3).unwrap_or("unknown").chars().take(40).collect())
    }

    fn accel(&self) -> Result<(Accel, String), MonitorError> {
        Ok(match kvm::usable() {
            Ok(()) => (Accel::Kvm, "KVM works".to_owned()),
            Err(reason) => (Accel::Tcg, reason),
        })
    }

    fn check(&self, machine: &Machine) -> Result<(), MonitorError> {
        check_files(machine)?;
        if machine.vm.net_rate_bytes_s.is_some() {
            return Err(QemuError::NetRate.into());
        }
        match machine.net.mode {
            NetMode::Tap if machine.net.tap.is_none() => Err(QemuError::NoTap.into()),
            NetMode::Tap => Ok(()),
            NetMode::User => forwards(machine).iter().try_for_each(Forward::probe).map_err(Into::into),
        }
    }

    fn launch(&self, machine: &Machine, dir: BorrowedFd<'_>) -> Result<Launch, MonitorError> {
        let socket = |error: io::Error| Box::new(QemuError::Socket(error)) as MonitorError;
        let listener: OwnedFd = unix::bind(dir, API_SOCKET).map_err(socket)?.into();
        let (ours, theirs) = UnixStream::pair().map_err(socket)?;
        let theirs = OwnedFd::from(theirs);
        let exec = EXEC_SOCKETS.map(|name| unix::bind(dir, name).map(OwnedFd::from));
        let exec = exec.into_iter().collect::<io::Result<Vec<_>>>().map_err(socket)?;
        let command = Exec::new(arch::QEMU)
            .args(machine_args(machine))
            .args(disk_args(machine))
            .args(net_args(machine))
            .args(channel_args(listener.as_raw_fd(), theirs.as_raw_fd()))
            .args(exec_args(&exec))
            .command()
            .map_err(|e| Box::new(QemuError::Program(e)) as MonitorError)?;
        let inherit = [listener, theirs].into_iter().chain(exec).collect();
        let sockets = std::iter::once(API_SOCKET).chain(EXEC_SOCKETS).collect();
        Ok(Launch { command, inherit, channel: Channel::Port(ours), sockets, counters: None })
    }

    fn boot(&self, _: &Machine, process: Process<'_>, until: Instant) -> Result<String, MonitorError> {
        // The listening socket was there before QEMU, so this waits in its backlog until QEMU's main loop greets.
        Ok(greet(process, until)?.version().to_owned())
    }

    fn press_power_button(&self, process: Process<'_>, until: Instant) -> Result<(), MonitorError> {
        greet(process, until)?.execute("system_powerdown").map_err(QemuError::Qmp)?;
        Ok(())
    }

    fn vcpu_thread_prefix(&self) -> &'static str {
        // "CPU 0/KVM", "CPU 0/TCG"; in software without one thread per vCPU "ALL CPUs/TCG".
        "CPU "
    }

    fn disk_io(&self, dir: &VmDir, until: Instant) -> Option<Vec<DiskIo>> {
        let mut qmp = Qmp::greet(unix::connect(&dir.api_socket()).ok()?, until).ok()?;
        let answer = qmp.execute("query-blockstats").ok()?;
        Some(answer.as_array()?.iter().filter_map(disk_io).collect())
    }

    fn change(&self, dir: &VmDir, changes: &[Change<'_>], until: Instant) -> Result<(), MonitorError> {
        let stream = unix::connect(&dir.api_socket()).map_err(|e| QemuError::Qmp(QmpError::Io(e)))?;
        let mut qmp = Qmp::greet(stream, until).map_err(QemuError::Qmp)?;
        for change in changes {
            let (command, arguments) = match change {
                Change::Grown { drive, size_bytes, .. } => {
                    ("block_resize", json!({ "device": drive, "size": size_bytes }))
                }
                // QMP wants all of them told; 0 is no limit.
                Change::DiskRate { drive, rate } => (
                    "block_set_io_throttle",
                    json!({ "device": drive, "bps": rate.unwrap_or(0), "bps_rd": 0, "bps_wr": 0,
                            "iops": 0, "iops_rd": 0, "iops_wr": 0 }),
                ),
                Change::NetRate(None) => continue,
                Change::NetRate(Some(_)) => return Err(QemuError::NetRate.into()),
            };
            qmp.execute_with(command, &arguments).map_err(QemuError::Qmp)?;
        }
        Ok(())
    }

    fn explain_end(&self, status: ExitStatus, log: &str) -> Option<MonitorError> {
        // QEMU names its program in front of what it complains about, and warnings precede the reason.
        let line = log.lines().rev().find(|l| !l.trim().is_empty() && !l.contains("warning:"))?;
        let said = line.split_once(": ").map_or(line, |(_, said)| said);
        (!status.success()).then(|| QemuError::Said(said.trim().chars().take(400).collect()).into())
    }
}

impl From<QemuError> for MonitorError {
    fn from(error: QemuError) -> Self {
        Box::new(error)
    }
}

/// One drive of the answer to `query-blockstats` (QEMU QMP Reference Manual, BlockStats).
fn disk_io(drive: &Value) -> Option<DiskIo> {
    let stats = &drive["stats"];
    Some(DiskIo {
        drive: drive["device"].as_str().filter(|name| !name.is_empty())?.to_owned(),
        read_bytes: stats["rd_bytes"].as_u64()?,
        written_bytes: stats["wr_bytes"].as_u64()?,
    })
}

fn greet(process: Process<'_>, until: Instant) -> Result<Qmp, QemuError> {
    let stream = unix::connect_in(process.dir, API_SOCKET).map_err(|e| QemuError::Qmp(QmpError::Io(e)))?;
    Ok(Qmp::greet(stream, until)?)
}

/// What QEMU opens, tried beforehand: a missing file is named in banger's words before anything was started.
fn check_files(machine: &Machine) -> Result<(), QemuError> {
    let disk = &machine.disk;
    let mut files = vec![
        ("kernel", &disk.kernel, false),
        ("initrd", &disk.initrd, false),
        ("root disk", &disk.root_device, !disk.root_read_only),
        ("work disk", &disk.work_device, true),
    ];
    files.extend(disk.upper_device.as_ref().map(|path| ("upper disk", path, true)));
    for (what, path, write) in files {
        let opened = std::fs::OpenOptions::new().read(true).write(write).open(path);
        opened.map_err(|source| QemuError::File { what, path: path.clone(), source })?;
    }
    Ok(())
}

/// A value of a QEMU option: a comma ends it, a doubled one is a comma.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

fn machine_args(machine: &Machine) -> Vec<String> {
    let (accel, cpu) = match machine.accel {
        Accel::Kvm => ("kvm", "host"),
        Accel::Tcg => ("tcg,thread=multi", "max"),
    };
    let mut args: Vec<String> =
        "-nodefaults -no-user-config -no-reboot -display none".split(' ').map(Into::into).collect();
    let mut add = |option: &str, value: String| args.extend([option.to_owned(), value]);
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    // With the threads named, `stats` tells those of the vCPUs from the others.
    add("-name", format!("guest=banger-{},debug-threads=on", machine.vm.id));
    add("-M", arch::QEMU_MACHINE.into());
    add("-accel", accel.into());
    add("-cpu", cpu.into());
    add("-smp", machine.vm.vcpus.to_string());
    add("-m", format!("{}M", machine.vm.memory_mib));
    add("-kernel", machine.disk.kernel.clone());
    add("-initrd", machine.disk.initrd.clone());
    add("-append", boot_line(machine.accel));
    add("-object", "rng-random,id=rng,filename=/dev/urandom".into());
    add("-device", format!("virtio-rng-pci,rng=rng,max-bytes={},period=1000", arch::ENTROPY_BYTES_S));
    args
}

fn boot_line(accel: Accel) -> String {
    let line = format!("{} quiet loglevel=1 panic=1 net.ifnames=0 random.trust_cpu=on", arch::BOOT_LINE);
    if accel == Accel::Tcg { format!("{line} {}", arch::EMULATED_BOOT_LINE) } else { line }
}

fn disk_args(machine: &Machine) -> Vec<String> {
    let disk = &machine.disk;
    let mut args = Vec::new();
    let mut add = |id: &str, path: &str, read_only: bool| {
        // QEMU's own file locks let many readers share an image, and one writer alone hold a disk.
        let mut drive =
            format!("if=none,id={id},format=raw,werror=report,rerror=report,file={}", escaped(path));
        drive.push_str(if read_only { ",readonly=on" } else { ",discard=unmap" });
        if let Some(rate) = machine.vm.disk_rate_bytes_s {
            drive.push_str(&format!(",throttling.bps-total={rate}"));
        }
        args.extend(["-drive".to_owned(), drive]);
        args.extend(["-device".to_owned(), format!("virtio-blk-pci,drive={id},serial={id}")]);
    };
    add("root", &disk.root_device, disk.root_read_only);
    if let Some(upper) = &disk.upper_device {
        add("upper", upper, false);
    }
    add("work", &disk.work_device, false);
    args
}

fn net_args(machine: &Machine) -> Vec<String> {
    let netdev = match (&machine.net.tap, machine.net.mode) {
        (Some(tap), NetMode::Tap) => format!("tap,id=net,ifname={tap},script=no,downscript=no"),
        _ => {
            let net = &machine.net;
            let prefix = net.prefix_len;
            let mut user = format!(
                "user,id=net,ipv6=off,net={}/{prefix},host={},dhcpstart={}",
                network(net.address, prefix),
                net.gateway,
                net.address
            );
            if let Some(dns) = user_dns(machine) {
                user.push_str(&format!(",dns={dns}"));
            }
            // Published ports work all the same; everything else from the guest ends in QEMU.
            if net.egress.policy == EgressPolicy::None {
                user.push_str(",restrict=on");
            }
            user.extend(forwards(machine).iter().map(Forward::option));
            user
        }
    };
    let mut device = format!("virtio-net-pci,netdev=net,mac={},romfile=", machine.vm.mac);
    if let Some(mtu) = machine.vm.mtu {
        device.push_str(&format!(",host_mtu={mtu}"));
    }
    vec!["-netdev".into(), netdev, "-device".into(), device]
}

fn network(address: Ipv4Addr, prefix_len: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() & mask)
}

/// The address at which user networking forwards to the host's resolver, where the guest is told to use one inside its subnet.
fn user_dns(machine: &Machine) -> Option<Ipv4Addr> {
    let net = &machine.net;
    let inside = |dns: &&Ipv4Addr| {
        network(**dns, net.prefix_len) == network(net.address, net.prefix_len) && **dns != net.gateway
    };
    net.dns.iter().find(inside).copied()
}

/// A host port that user networking listens on.
struct Forward {
    protocol: Protocol,
    host: Ipv4Addr,
    port: u16,
    guest: Ipv4Addr,
    guest_port: u16,
}

/// SSH, then what is published.
fn forwards(machine: &Machine) -> Vec<Forward> {
    let net = &machine.net;
    let ssh = Forward {
        protocol: Protocol::Tcp,
        host: net.ssh_host,
        port: net.ssh_port,
        guest: net.address,
        guest_port: 22,
    };
    let published = net.publish.iter().map(|publish| Forward {
        protocol: publish.protocol,
        host: publish.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED),
        port: publish.host_port,
        guest: net.address,
        guest_port: publish.guest_port,
    });
    std::iter::once(ssh).chain(published).collect()
}

impl Forward {
    fn protocol(&self) -> &'static str {
        match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }

    fn option(&self) -> String {
        let Self { host, port, guest, guest_port, .. } = self;
        format!(",hostfwd={}:{host}:{port}-{guest}:{guest_port}", self.protocol())
    }

    /// Whether the port is free now: QEMU's own complaint does not say which one was not.
    fn probe(&self) -> Result<(), QemuError> {
        let bound = match self.protocol {
            Protocol::Tcp => TcpListener::bind((self.host, self.port)).map(drop),
            Protocol::Udp => UdpSocket::bind((self.host, self.port)).map(drop),
        };
        bound.map_err(|source| QemuError::Port {
            host: self.host,
            port: self.port,
            guest_port: self.guest_port,
            protocol: self.protocol(),
            source,
        })
    }
}

/// Console on stdout, QMP on the listening socket `qmp`, the agent's port on the connected socket `agent`.
fn channel_args(qmp: i32, agent: i32) -> Vec<String> {
    let args = [
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
        "-chardev",
        &format!("socket,id=qmp,fd={qmp},server=on,wait=off"),
        "-mon",
        "chardev=qmp,mode=control",
        "-chardev",
        &format!("socket,id=agent,fd={agent}"),
        "-device",
        // With as many vectors as queues each has its own, and the kernel need not look at all of them for every interrupt.
        &format!("virtio-serial-pci,max_ports={SERIAL_PORTS},vectors={}", 2 * SERIAL_PORTS + 4),
        "-device",
        &format!("virtserialport,chardev=agent,name={PORT_NAME}"),
    ];
    args.map(str::to_owned).into()
}

/// The ports for commands, one connection at a time each, on the listening sockets `sockets`.
fn exec_args(sockets: &[OwnedFd]) -> Vec<String> {
    let port = |(number, socket): (usize, &OwnedFd)| {
        let fd = socket.as_raw_fd();
        [
            "-chardev".to_owned(),
            format!("socket,id=exec{number},fd={fd},server=on,wait=off"),
            "-device".to_owned(),
            format!("virtserialport,chardev=exec{number},name={EXEC_PORT_PREFIX}{number}"),
        ]
    };
    sockets.iter().enumerate().flat_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_values_escape_commas_and_networks_are_masked() {
        assert_eq!(escaped("/a,b/c"), "/a,,b/c");
        assert_eq!(network(Ipv4Addr::new(10, 1, 2, 77), 26), Ipv4Addr::new(10, 1, 2, 64));
        assert_eq!(network(Ipv4Addr::new(10, 1, 2, 77), 0), Ipv4Addr::UNSPECIFIED);
        assert_eq!(network(Ipv4Addr::new(10, 1, 2, 77), 32), Ipv4Addr::new(10, 1, 2, 77));
    }
    #[test]
    fn only_an_emulated_guest_is_spared_what_emulation_is_bad_at() {
        let emulated = boot_line(Accel::Tcg);
        assert!(emulated.contains(" cryptomgr.notests"));
        assert_eq!(emulated.contains(" clearcpuid=141 no_timer_check"), cfg!(target_arch = "x86_64"));
        assert!(
            !boot_line(Accel::Kvm).contains("cryptomgr") && !boot_line(Accel::Kvm).contains("clearcpuid")
        );
    }
}
