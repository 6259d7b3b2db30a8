//! Whether hardware virtualization works, kvm(4).

use std::fs::{self, OpenOptions};

/// `Ok` where KVM can be used, else why not, for people.
///
/// That /dev/kvm opens proves nothing: nested and paravirtual hosts offer one under which a stock kernel hangs for ever. On x86 the
/// processor must also say `vmx` or `svm`.
pub fn usable() -> Result<(), String> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.map_err(|error| format!("no KVM: /dev/kvm: {error}"))?;
    if cfg!(target_arch = "x86_64") {
        let info =
            fs::read_to_string("/proc/cpuinfo").map_err(|error| format!("no KVM: /proc/cpuinfo: {error}"))?;
        let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        if !flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm") {
            return Err("no KVM: the processor has neither vmx nor svm".to_owned());
        }
    }
    Ok(())
}
