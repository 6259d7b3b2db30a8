//! The kernel's interfaces that have no safe binding.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::socket::{SockFlag, accept4};
use nix::unistd::{ForkResult, fork};

/// `_IOW('f', 16, __u64)`: the new size of a mounted ext4, in blocks.
const EXT4_IOC_RESIZE_FS: u64 = 0x4008_6610;
/// `_IOW('R', 3, int[2])`: bytes for the entropy pool, with their entropy.
const RNDADDENTROPY: u64 = 0x4008_5203;

/// How many descriptors a walk may need: one for each level of directories, of which a path that git can open has half as many as bytes.
const MANY_DESCRIPTORS: libc::rlim_t = 1 << 14;

/// Lets this process hold many descriptors, whatever limit it was started with: root may raise it.
pub fn allow_many_descriptors() {
    let many = libc::rlimit { rlim_cur: MANY_DESCRIPTORS, rlim_max: MANY_DESCRIPTORS };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: all calls are given a valid pointer; that they may fail is no harm.
    unsafe {
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const many) != 0
            && libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0
        {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Loads a module.
pub fn load_module(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call and the parameters are a NUL-terminated empty string.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Stirs bytes into the kernel's entropy pool and credits all their bits.
pub fn add_entropy(random: &File, seed: &[u8]) -> io::Result<()> {
    // struct rand_pool_info: two ints, then the bytes in 32-bit words.
    let mut words = vec![seed.len() as u32 * 8, seed.len() as u32];
    words.extend(seed.chunks(4).map(|chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_ne_bytes(word)
    }));
    // SAFETY: the buffer is laid out as the kernel reads it, and holds as many bytes as its second word says.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, words.as_ptr()) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Grows the ext4 that `directory` lies on to `blocks` of its blocks.
pub fn resize_ext4(directory: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads one u64 through the pointer, which is valid for the call.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &raw const blocks) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Makes this process' command line begin with `@`, so that systemd spares it at shutdown (systemd, "Root storage daemons").
pub fn mark_as_spared() -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Field 48, arg_start; the second field, the name in parentheses, may hold anything.
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let address = after_name.split_whitespace().nth(45).and_then(|field| field.parse::<usize>().ok());
    let Some(address) = address.filter(|address| *address != 0) else {
        return Err(io::Error::other("/proc/self/stat has no arg_start"));
    };
    // SAFETY: it is the address of the first byte of argv[0], in this process' own writable stack; argv[0] is never empty here
    // (the kernel starts init as "/init") and Rust holds no reference to it.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(b'@') };
    Ok(())
}

/// Forks; `true` in the child.
pub fn fork_child() -> io::Result<bool> {
    // SAFETY: called while this process has a single thread.
    match unsafe { fork() }? {
        ForkResult::Child => Ok(true),
        ForkResult::Parent { .. } => Ok(false),
    }
}

/// Takes the next connection.
pub fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let connection = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the kernel has just opened it, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(connection) })
}

/// Asks systemd, PID 1, for a shutdown: SIGRTMIN+4 powers off, SIGRTMIN+5 reboots (systemd(1), "Signals").
pub fn ask_systemd(reboot: bool) -> io::Result<()> {
    let signal = libc::SIGRTMIN() + if reboot { 5 } else { 4 };
    // SAFETY: kill(2) touches no memory.
    Errno::result(unsafe { libc::kill(1, signal) }).map(drop).map_err(io::Error::from)
}

/// Has the kernel begin to write a file to its disk. Nothing is promised: that is fsync(2)'s.
pub fn start_writing(file: &File) {
    drop(sync_range(file, libc::SYNC_FILE_RANGE_WRITE));
}

/// Has the kernel write a file to its disk, and waits until the disk has taken it: into its cache, perhaps.
pub fn write_out(file: &File) -> io::Result<()> {
    let before = libc::SYNC_FILE_RANGE_WAIT_BEFORE;
    sync_range(file, before | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER)
}

fn sync_range(file: &File, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call, which touches no memory. A length of 0 means to the end.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Lets processes open many files, as systemd does: a soft limit of 1024, for select(2), a hard one of 524288.
pub fn raise_file_limit() {
    let limit = libc::rlimit { rlim_cur: 1024, rlim_max: 524_288 };
    // SAFETY: the structure is valid for the call. Where it is refused the old limit stays, which is no failure.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
}

/// An interface, about to be configured.
pub struct Interface<'a> {
    socket: &'a OwnedFd,
    request: libc::ifreq,
}

impl<'a> Interface<'a> {
    /// The interface called `name`; `socket` is any socket of the internet family.
    pub fn new(socket: &'a OwnedFd, name: &str) -> io::Result<Self> {
        // SAFETY: an ifreq of zero bytes is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(io::Error::other(format!("{name:?} is not an interface's name")));
        }
        for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *slot = byte as libc::c_char;
        }
        Ok(Self { socket, request })
    }

    /// Takes it up; its other flags stay.
    pub fn up(&mut self) -> io::Result<()> {
        self.ioctl(libc::SIOCGIFFLAGS)?;
        // SAFETY: the kernel has just written this member, and any bits are valid for an integer.
        let flags = unsafe { self.request.ifr_ifru.ifru_flags };
        self.request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
        self.ioctl(libc::SIOCSIFFLAGS)
    }

    /// Sets the largest packet that is sent on it.
    pub fn set_mtu(&mut self, mtu: u16) -> io::Result<()> {
        self.request.ifr_ifru.ifru_mtu = mtu.into();
        self.ioctl(libc::SIOCSIFMTU)
    }

    /// Sets its address and netmask.
    pub fn set_address(&mut self, address: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()> {
        self.request.ifr_ifru.ifru_addr = socket_address(address);
        self.ioctl(libc::SIOCSIFADDR)?;
        self.request.ifr_ifru.ifru_netmask = socket_address(netmask);
        self.ioctl(libc::SIOCSIFNETMASK)
    }

    fn ioctl(&mut self, request: libc::c_ulong) -> io::Result<()> {
        // SAFETY: these requests take an ifreq, which is valid for the call, and the socket is open.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), request as _, &raw mut self.request) };
        Errno::result(result).map(drop).map_err(io::Error::from)
    }
}

/// Adds the default route.
pub fn add_default_route(socket: &OwnedFd, gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: an rtentry of zero bytes is a valid value; no device is named.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: the request takes an rtentry, which is valid for the call, and the socket is open.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &raw mut route) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (slot, byte) in data[2..6].iter_mut().zip(address.octets()) {
        *slot = byte as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

/// Replaces this process.
pub fn exec(program: &CStr) -> io::Error {
    match nix::unistd::execv(program, &[program]) {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}

/// A descriptor of a child that was not waited for: readable once it has ended.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call touches no memory.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just opened it, close-on-exec, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Lets `command` lead a session and a process group of its own, with no signal blocked and the usual umask.
pub fn begin_session(command: &mut Command) {
    let begin = || {
        SigSet::empty().thread_set_mask()?;
        nix::unistd::setsid()?;
        nix::sys::stat::umask(nix::sys::stat::Mode::S_IWGRP | nix::sys::stat::Mode::S_IWOTH);
        Ok(())
    };
    // SAFETY: between fork and exec only sigprocmask(2), setsid(2) and umask(2) are called, on memory of its own; signal-safety(7)
    // allows them there.
    unsafe { command.pre_exec(begin) };
}

/// Lets `command` begin with no signal blocked. The standard library hands down the caller's mask, which execve(2) keeps.
pub fn unblock_signals(command: &mut Command) {
    // SAFETY: between fork and exec only sigprocmask(2) is called, on memory of its own; signal-safety(7) allows it there.
    unsafe { command.pre_exec(|| Ok(SigSet::empty().thread_set_mask()?)) };
}
