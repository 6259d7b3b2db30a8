//! What is behind the failures that Firecracker's users meet, and what to do about them. The words looked for are those of
//! Firecracker's fault messages and log; `#n` is an issue of firecracker-microvm/firecracker.

use banger_contract::ErrorCode;

/// A failure that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its place in the contract.
    pub code: ErrorCode,
    /// What is behind it and what to do, for people.
    pub hint: &'static str,
}

/// What to look for.
struct Rule {
    /// Only in refusals of requests that start so; empty: anywhere, the log included.
    request: &'static str,
    /// All of these occur, whatever their case.
    words: &'static [&'static str],
    code: ErrorCode,
    hint: &'static str,
}

const fn rule(
    request: &'static str,
    words: &'static [&'static str],
    code: ErrorCode,
    hint: &'static str,
) -> Rule {
    Rule { request, words, code, hint }
}

const NO_DISK: &str = "a file of the VM is gone: run banger-disk detach and banger-disk attach again";
const DISK_DENIED: &str = "this user may not open a file of the VM: run banger-disk check, and look at the owners in the state directory";

/// The first rule that fits is taken, so the narrower ones come first.
const RULES: &[Rule] = &[
    // #3465
    rule(
        "PUT /network-interfaces",
        &["os error 16)"],
        ErrorCode::InUse,
        "another process holds the VM's tap, perhaps a VMM that was left behind: end it, or run banger-netd detach and attach",
    ),
    rule(
        "PUT /network-interfaces",
        &["/dev/net/tun", "os error 2)"],
        ErrorCode::Unsupported,
        "the host has no /dev/net/tun: load the kernel module tun, or use user networking with banger-qemu",
    ),
    rule(
        "PUT /network-interfaces",
        &["os error 1)"],
        ErrorCode::Denied,
        "the tap is not there or belongs to another user: run banger-netd detach and banger-netd attach again",
    ),
    rule(
        "PUT /network-interfaces",
        &["os error 13)"],
        ErrorCode::Denied,
        "this user may not open /dev/net/tun: it should have mode 0666, as udev makes it",
    ),
    rule(
        "PUT /network-interfaces",
        &["os error 22)"],
        ErrorCode::Conflict,
        "the tap was made with other flags than Firecracker uses (multi_queue, or a tun): run banger-netd detach and attach",
    ),
    // #746 #4650
    rule(
        "PUT /network-interfaces",
        &["os error 5)"],
        ErrorCode::Failed,
        "the tap is not up: run banger-netd check, or banger-netd detach and attach",
    ),
    rule(
        "",
        &["tap", "os error 5)"],
        ErrorCode::Failed,
        "the tap is not up: run banger-netd check, or banger-netd detach and attach",
    ),
    // #2908 #2268
    rule(
        "",
        &["creating kvm object", "os error 13)"],
        ErrorCode::Unsupported,
        "this user may not open /dev/kvm: join the group that owns it (usually kvm) and log in again, or use banger-qemu",
    ),
    rule(
        "",
        &["creating kvm object", "os error 2)"],
        ErrorCode::Unsupported,
        "the host has no /dev/kvm: enable virtualization in the firmware and load kvm_intel or kvm_amd, or use banger-qemu",
    ),
    rule(
        "PUT /actions",
        &["os error 16)"],
        ErrorCode::InUse,
        "another hypervisor such as VirtualBox or VMware holds the processor's virtualization: stop its VMs, or use banger-qemu",
    ),
    rule(
        "",
        &["missing kvm capabilities"],
        ErrorCode::Unsupported,
        "the host's KVM lacks what Firecracker needs: use banger-qemu",
    ),
    // #668 #5437
    rule(
        "",
        &["fail_entry"],
        ErrorCode::Unsupported,
        "the processor refused to enter the guest, which nested virtualization is known for: use banger-qemu",
    ),
    rule(
        "",
        &["failentry"],
        ErrorCode::Unsupported,
        "the processor refused to enter the guest, which nested virtualization is known for: use banger-qemu",
    ),
    rule(
        "",
        &["creating kvm object"],
        ErrorCode::Unsupported,
        "KVM does not work on this host: use banger-qemu",
    ),
    // #766 #1716
    rule(
        "",
        &["failed to open the api socket"],
        ErrorCode::InUse,
        "the API socket is there already: another Firecracker runs in the VM's directory, or one left it behind; run banger-fc gc",
    ),
    rule(
        "PUT /vsock",
        &["os error 98)"],
        ErrorCode::InUse,
        "the vsock's socket is there already: another Firecracker runs in the VM's directory, or one left it behind; run banger-fc gc",
    ),
    rule(
        "",
        &["sun_len"],
        ErrorCode::Unsupported,
        "the path of a socket is longer than 107 bytes: use a state directory with a shorter path",
    ),
    rule(
        "",
        &["file name too long"],
        ErrorCode::Unsupported,
        "the path of a socket is too long: use a state directory with a shorter path",
    ),
    // #2201
    rule(
        "",
        &["invalid elf magic"],
        ErrorCode::BadInput,
        "disk.kernel_elf is not an uncompressed ELF (a bzImage is understood since Firecracker 1.17 only): make the image again",
    ),
    rule("PUT /boot-source", &["os error 2)"], ErrorCode::NotFound, NO_DISK),
    rule("PUT /boot-source", &["os error 13)"], ErrorCode::Denied, DISK_DENIED),
    rule("PUT /drives", &["os error 2)"], ErrorCode::NotFound, NO_DISK),
    rule("PUT /drives", &["os error 13)"], ErrorCode::Denied, DISK_DENIED),
    rule(
        "",
        &["os error 12)"],
        ErrorCode::Failed,
        "the host has not enough free memory: plan the VM with a smaller --memory",
    ),
    rule(
        "PUT /machine-config",
        &["vcpu"],
        ErrorCode::BadInput,
        "Firecracker takes 1 to 32 vCPUs: plan the VM with another --vcpus",
    ),
    rule(
        "",
        &["unknown field"],
        ErrorCode::Unsupported,
        "this Firecracker does not know a field that it should know since 1.14: install an official release",
    ),
    rule(
        "",
        &["invalid request method and/or path"],
        ErrorCode::Unsupported,
        "this Firecracker does not know a request that it should know since 1.14: install an official release",
    ),
];

/// What is known of Firecracker's refusal of `request` (method and path) with the words `fault`.
pub fn refusal(request: &str, fault: &str) -> Option<Known> {
    let fault = fault.to_ascii_lowercase();
    let fits =
        |rule: &&Rule| request.starts_with(rule.request) && rule.words.iter().all(|w| fault.contains(w));
    RULES.iter().find(fits).map(|rule| Known { code: rule.code, hint: rule.hint })
}

/// What is known of what Firecracker wrote into its log before it ended. The last telling line counts.
pub fn log(tail: &str) -> Option<Known> {
    tail.lines().rev().find_map(|line| refusal("", line))
}

/// What Firecracker's exit status means (`FcExitCode`).
pub fn exit_status(status: i32) -> Option<(&'static str, Known)> {
    let failed = |hint| Known { code: ErrorCode::Failed, hint };
    Some(match status {
        // #2044
        148 => (
            "Firecracker used a system call that its seccomp filter forbids",
            failed("a Firecracker built against glibc does that: install the official static build"),
        ),
        149 => (
            "Firecracker could not have a page of its memory (SIGBUS)",
            failed(
                "a disk of the VM was truncated, or the file system under it is full: free space and run banger-disk check",
            ),
        ),
        150 => (
            "Firecracker crashed (SIGSEGV)",
            failed("that is a bug in Firecracker: its log says more (banger vm logs)"),
        ),
        151 => (
            "a file of Firecracker's grew beyond the limit (SIGXFSZ)",
            failed("raise the limit of file sizes (ulimit -f) of this user"),
        ),
        152 => (
            "Firecracker calls its configuration wrong",
            failed(
                "run banger-fc check and look at its log (banger vm logs): the Firecracker may be another build",
            ),
        ),
        153 => (
            "Firecracker does not understand its arguments",
            Known {
                code: ErrorCode::Unsupported,
                hint: "this Firecracker is older than 1.14 or another build: install an official release",
            },
        ),
        154 => (
            "Firecracker used up its processor time (SIGXCPU)",
            failed("raise the limit (ulimit -t) of this user"),
        ),
        157 => (
            "Firecracker ran an instruction that this processor lacks (SIGILL)",
            Known { code: ErrorCode::Unsupported, hint: "install a build for this processor" },
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failures_that_users_meet_are_known() {
        // Requests and words as the released Firecrackers say them.
        let tap = "Network config error: Could not create the network device: Open tap device failed: Error while creating ifreq structure: ";
        let kvm = "Start microvm error: Kvm error: Error creating KVM object: ";
        let cases = [
            ("PUT /network-interfaces/eth0", format!("{tap}Resource busy (os error 16). Invalid TUN/TAP Backend"), ErrorCode::InUse),
            ("PUT /network-interfaces/eth0", format!("{tap}Operation not permitted (os error 1). Invalid"), ErrorCode::Denied),
            ("PUT /network-interfaces/eth0", format!("{tap}Invalid argument (os error 22)."), ErrorCode::Conflict),
            ("PUT /network-interfaces/eth0", format!("{tap}I/O error (os error 5)"), ErrorCode::Failed),
            ("PUT /network-interfaces/eth0", "Couldn't open /dev/net/tun: No such file or directory (os error 2)".into(), ErrorCode::Unsupported),
            ("PUT /actions", format!("{kvm}Permission denied (os error 13) Make sure the user"), ErrorCode::Unsupported),
            ("PUT /actions", format!("{kvm}No such file or directory (os error 2) Make sure"), ErrorCode::Unsupported),
            ("PUT /actions", "Start microvm error: Cannot create VM: Device or resource busy (os error 16)".into(), ErrorCode::InUse),
            ("PUT /actions", "Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image: Invalid Elf magic number".into(), ErrorCode::BadInput),
            ("PUT /vsock", "Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: Address in use (os error 98)".into(), ErrorCode::InUse),
            ("PUT /vsock", "path must be shorter than SUN_LEN".into(), ErrorCode::Unsupported),
            ("PUT /drives/root", "Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: No such file or directory (os error 2) /x".into(), ErrorCode::NotFound),
        ];
        for (request, fault, code) in cases {
            assert_eq!(refusal(request, &fault).map(|known| known.code), Some(code), "{request}: {fault}");
        }
        assert_eq!(refusal("PUT /entropy", "something new"), None);
        assert_eq!(refusal("PUT /drives/root", "(os error 28)"), None, "2) is not the end of 28)");
    }

    #[test]
    fn the_log_speaks_last_line_first() {
        let tail = "Running\nunknown field `x`\nFailed to open the API socket at: api.sock. Check that it is not already used.\nexiting\n";
        assert_eq!(log(tail).map(|known| known.code), Some(ErrorCode::InUse));
        assert_eq!(log("all is well"), None);
        assert!(exit_status(148).is_some() && exit_status(1).is_none());
    }
}
