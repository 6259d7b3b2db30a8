"""A guest without a VM: sshd on loopback, in a root of its own (an overlay of this machine's, thrown away afterwards) and with a home
of its own, so that whatever a command does to git, /etc or its home it does to nobody else."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time

ID = "0123456789ab"
WORKSPACE = "/root/repo"

# Run in mount and process namespaces of its own. $1: a directory of the case's.
ROOT = r"""
set -e
t=$1
mount -t tmpfs -o size=64m,mode=755 guest "$t/sys"
mkdir "$t/sys/upper" "$t/sys/work" "$t/sys/root"
mount -t overlay -o "lowerdir=/,upperdir=$t/sys/upper,workdir=$t/sys/work" guest "$t/sys/root"
cd "$t/sys/root"
mount --rbind /dev dev
mount -t proc proc proc
mount -t tmpfs -o mode=755 guest run
mkdir run/sshd run/oracle run/banger
mount --bind "$t/conf" run/oracle
[ ! -d "$t/helper" ] || mount --bind "$t/helper" run/banger
mount -t tmpfs -o mode=1777,size=64m guest tmp
mkdir -p var/tmp; chmod 1777 var/tmp
rm -f etc/gitconfig etc/gitattributes
mount --bind "$t/root" root
exec chroot . /usr/sbin/sshd -D -e -f /run/oracle/sshd_config
"""

SSHD_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey /run/oracle/host_key
AuthorizedKeysFile /run/oracle/client_key.pub
StrictModes no
UsePAM no
PidFile none
PasswordAuthentication no
PermitRootLogin yes
PermitUserEnvironment yes
SetEnv PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""


def make_keys(folder):
    """The keys of all guests of a campaign."""
    os.makedirs(folder, exist_ok=True)
    for name in ("host_key", "client_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "oracle", "-f", os.path.join(folder, name)], check=True)


def missing(helper):
    """Why guests cannot be had here, or nothing."""
    if os.geteuid() != 0:
        return "guests without a VM need root"
    for program in ("git", "ssh-keygen", "unshare", "/usr/sbin/sshd"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if helper and not os.access(helper, os.X_OK):
        return f"no banger-guest at {helper}"
    return ""


class Native:
    """One guest. `folder` is an empty directory of its own."""

    is_vm = False

    def __init__(self, folder, keys, programs, helper, host_home):
        self.folder, self.programs, self.host_home = folder, programs, host_home
        self.workspace = os.path.join(folder, "root", "repo")
        vm = os.path.join(folder, "state/vms", ID)
        for name in (vm, *(os.path.join(folder, n) for n in ("state/ssh", "state/locks", "sys", "conf", "root"))):
            os.makedirs(name, exist_ok=True)
        for name in ("host_key", "host_key.pub", "client_key.pub"):
            shutil.copy(os.path.join(keys, name), os.path.join(folder, "conf", name))
        for name, place in (("host_key", vm + "/host_key"), ("client_key", folder + "/state/ssh/id_ed25519")):
            shutil.copy(os.path.join(keys, name), place)
            shutil.copy(os.path.join(keys, name + ".pub"), place + ".pub")
        if helper:
            os.makedirs(os.path.join(folder, "helper"))
            shutil.copy(helper, os.path.join(folder, "helper", "guest"))
        self.sshd = None
        for _ in range(5):
            if self.start():
                break
        else:
            raise RuntimeError("sshd does not start: " + self.log())
        self.record = self.make_record(vm)

    def log(self):
        with open(os.path.join(self.folder, "sshd.log"), errors="replace") as file:
            return file.read()[-2000:]

    def start(self):
        self.port = free_port()
        with open(os.path.join(self.folder, "conf/sshd_config"), "w") as file:
            file.write(SSHD_CONFIG.format(port=self.port))
        with open(os.path.join(self.folder, "sshd.log"), "w") as log:
            argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ROOT, "sh", self.folder]
            self.sshd = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + 45
        while time.monotonic() < until and self.sshd.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return True
            time.sleep(0.004)
        self.stop()
        return False

    def make_record(self, vm):
        return {
            "schema": "banger.vm/1",
            "vm": {"id": ID, "name": "t", "state_id": "01234567", "owner_uid": 0, "created_at": "2026-01-01T00:00:00Z",
                   "image": "debian", "init": "lean", "hostname": "t", "vcpus": 1, "memory_mib": 512, "rootfs_size_bytes": 1,
                   "work_size_bytes": 1, "ttl_s": None, "address": "127.0.0.1", "prefix_len": 24, "gateway": "127.0.0.1",
                   "mac": "02:00:00:00:00:01", "cid": 3, "net_mode": "user", "nat": True, "publish": [], "disk_backend": "auto",
                   "vmm_kind": "qemu",
                   "paths": {"dir": vm, "rootfs": "", "kernel": "", "kernel_elf": "", "initrd": "", "work_seed": "", "upper_seed": ""}},
            "net": {"mode": "user", "bridge": None, "tap": None, "address": "127.0.0.1", "prefix_len": 24, "gateway": "127.0.0.1",
                    "dns": [], "nat": True, "publish": [], "ssh_host": "127.0.0.1", "ssh_port": self.port},
        }

    def ws(self, *args, stdin=None, timeout=120):
        """Runs banger-ws; without `stdin` that is the record. Gives status, stdout, stderr; status None where it took too long."""
        environment = {"PATH": os.environ["PATH"], "HOME": self.host_home, "LC_ALL": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1", "BANGER_CONFIG": "/dev/null"}
        argv = [os.path.join(self.programs, "banger-ws"), *args]
        if stdin is not None:
            with open(os.path.join(self.folder, "in.json"), "w") as file:
                json.dump(self.record, file)
            argv[2:2] = ["--input", "in.json"]
        given = json.dumps(self.record).encode() if stdin is None else stdin
        child = subprocess.Popen(argv, cwd=self.folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = child.communicate(given, timeout=timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            return None, out, err
        return child.returncode, out, err

    def look_at(self):
        """The workspace as the guest has it, with whatever it mounted there."""
        return f"/proc/{self.process()}/root{WORKSPACE}"

    def process(self):
        """sshd itself, which is the first process of its namespace; 0 where it is gone."""
        with open(f"/proc/{self.sshd.pid}/task/{self.sshd.pid}/children") as file:
            return int((file.read().split() or ["0"])[0])

    def stop(self):
        """Ends sshd and, with its process namespace, all that its sessions left."""
        if self.sshd and self.sshd.poll() is None:
            # unshare(1) ends when that has, and that has when the kernel has ended all others of the namespace.
            os.kill(self.process() or self.sshd.pid, signal.SIGKILL)
        if self.sshd:
            self.sshd.wait()


_last_port = [os.getpid() * 37 % 8000]


def free_port():
    """A port below those that the kernel gives to connections."""
    while True:
        _last_port[0] += 1
        port = 20_000 + _last_port[0] % 8000
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
