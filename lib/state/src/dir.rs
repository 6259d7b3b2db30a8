//! The layout of the state directory.

use std::path::{Path, PathBuf};

use banger_contract::types::{ImageName, KernelName, VmId};
use banger_protocol::guest::EXEC_PORTS;

/// The sockets of the guest's ports for commands, file names in a VM's directory.
pub const EXEC_SOCKETS: [&str; EXEC_PORTS] = ["exec0.sock", "exec1.sock", "exec2.sock", "exec3.sock"];

/// A state directory by its root; only paths, nothing is touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// The state directory at `root`, an absolute path.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the state directory is if nobody says: `$XDG_STATE_HOME/banger`, root's the system's. `directory` gives the directory that a
    /// variable names. `None`: neither that variable nor HOME is set.
    pub fn default_root(is_root: bool, directory: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
        if is_root {
            return Some(PathBuf::from("/var/lib/banger"));
        }
        let home = || directory("HOME").map(|home| home.join(".local/state"));
        directory("XDG_STATE_HOME").or_else(home).map(|base| base.join("banger"))
    }

    /// The state directory that holds the VM directory `vm_dir` (`…/vms/<id>`). `None` where that is not its shape.
    pub fn of_vm_dir(vm_dir: &Path) -> Option<Self> {
        let vms = vm_dir.parent().filter(|p| p.file_name().is_some_and(|n| n == "vms"))?;
        vms.parent().map(Self::at)
    }

    /// Its root.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// The database.
    pub fn database(&self) -> PathBuf {
        self.root.join("state.db")
    }
    /// The file with the state id.
    pub fn state_id(&self) -> PathBuf {
        self.root.join("state_id")
    }
    /// The client key and known_hosts.
    pub fn ssh(&self) -> PathBuf {
        self.root.join("ssh")
    }
    /// The private key with which banger logs in to guests (OpenSSH format, ed25519, 0600).
    pub fn client_key(&self) -> PathBuf {
        self.root.join("ssh/id_ed25519")
    }
    /// What the resolver may read: others can enter this directory, though not the one that it is in.
    pub fn dns(&self) -> PathBuf {
        self.root.join("dns")
    }
    /// The names file: which VMs the resolver knows.
    pub fn names(&self) -> PathBuf {
        self.root.join("dns/names")
    }
    /// Repositories for what guests have committed, while it is fetched; none of their own directories, which who talks to them can write.
    pub fn fetches(&self) -> PathBuf {
        self.root.join("fetch")
    }
    /// Lock files.
    pub fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }
    /// The directory of all VMs.
    pub fn vms(&self) -> PathBuf {
        self.root.join("vms")
    }
    /// The directory of one VM.
    pub fn vm(&self, id: &VmId) -> PathBuf {
        self.root.join("vms").join(id.as_str())
    }
    /// The directory of all images.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }
    /// The directory of one image.
    pub fn image(&self, name: &ImageName) -> PathBuf {
        self.root.join("images").join(name.as_str())
    }
    /// The directory of all kernels.
    pub fn kernels(&self) -> PathBuf {
        self.root.join("kernels")
    }
    /// The directory of one kernel.
    pub fn kernel(&self, name: &KernelName) -> PathBuf {
        self.root.join("kernels").join(name.as_str())
    }
    /// What can be made again.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }
    /// What is being downloaded from catalogs.
    pub fn downloads(&self) -> PathBuf {
        self.root.join("cache/files")
    }
    /// What is being downloaded from registries, an OCI image layout.
    pub fn layouts(&self) -> PathBuf {
        self.root.join("cache/oci")
    }
}

/// The files of one VM, under its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmDir {
    dir: PathBuf,
}

impl VmDir {
    /// The files under `dir`.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.dir
    }
    /// Held by the supervisor and the VMM while the VM lives.
    pub fn run_lock(&self) -> PathBuf {
        self.dir.join("run.lock")
    }
    /// What is currently true of the VM.
    pub fn handles(&self) -> PathBuf {
        self.dir.join("handles.json")
    }
    /// The guest's SSH host key (OpenSSH format, ed25519, 0600), made on the host and so pinned.
    pub fn host_key(&self) -> PathBuf {
        self.dir.join("host_key")
    }
    /// The public half of [`Self::host_key`], one line.
    pub fn host_key_pub(&self) -> PathBuf {
        self.dir.join("host_key.pub")
    }
    /// The guest's host key for the system's ssh, under the name `banger-<id>`.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }
    /// The initrd: the kernel's segment and the VM's own (0600: it holds keys).
    pub fn initrd(&self) -> PathBuf {
        self.dir.join("initrd")
    }
    /// The writable root (backends reflink and copy).
    pub fn root(&self) -> PathBuf {
        self.dir.join("root.ext4")
    }
    /// The ext4 above the root (backend overlay).
    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper.ext4")
    }
    /// The changes to the root (backend dm).
    pub fn cow(&self) -> PathBuf {
        self.dir.join("root.cow")
    }
    /// The work disk.
    pub fn work(&self) -> PathBuf {
        self.dir.join("work.ext4")
    }
    /// Firecracker's API or QEMU's QMP socket.
    pub fn api_socket(&self) -> PathBuf {
        self.dir.join("api.sock")
    }
    /// The supervisor's client-facing socket.
    pub fn agent_socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }
    /// Where QEMU takes a connection to the guest's port for commands with this number.
    pub fn exec_socket(&self, number: usize) -> PathBuf {
        self.dir.join(EXEC_SOCKETS[number % EXEC_PORTS])
    }
    /// Held by who is connected to that port.
    pub fn exec_lock(&self, number: usize) -> PathBuf {
        self.dir.join(format!("exec{number}.lock"))
    }
    /// Where Firecracker takes connections to the guest's vsock.
    pub fn vsock_socket(&self) -> PathBuf {
        self.dir.join("vsock.sock")
    }
    /// The guest's console.
    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }
    /// What the VMM says.
    pub fn vmm_log(&self) -> PathBuf {
        self.dir.join("vmm.log")
    }
    /// What was asked of the guest's agent, and what came of it.
    pub fn agent_log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }
    /// How the VM ended, written by its supervisor.
    pub fn exit(&self) -> PathBuf {
        self.dir.join("exit.json")
    }
}
