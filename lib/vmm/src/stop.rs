//! `stop` and `kill`: through the supervisor, and without it where it does not do as it is told.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::error::VmmError;
use super::routes::StopRequest;
use super::shutdown::Deadlines;
use crate::sys::http;
use banger_host::fs::holders::{self, Holder};
use banger_host::net::unix;
use banger_state::dir::{EXEC_SOCKETS, VmDir};
use banger_state::handles::Handles;
use banger_state::lock::{VmLock, is_alive};

/// Every socket that a VM's processes may have made.
pub const SOCKETS: [&str; 4 + EXEC_SOCKETS.len()] = {
    let [a, b, c, d] = EXEC_SOCKETS;
    ["agent.sock", "api.sock", "vsock.sock", "vsock.sock_1025", a, b, c, d]
};

/// How long the supervisor may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long killed processes may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How long between two looks at what cannot be waited for.
const GLANCE: Duration = Duration::from_millis(5);

/// How a VM is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// The guest is asked, by its agent and then by its power button; then the VMM is told to end.
    Ask(Deadlines),
    /// At once.
    Kill,
}

/// Ends the VM of `dir`, which errors call `vm`; whether it ran. Afterwards no process and no socket of it is left, and its handles
/// have no VMM.
///
/// # Errors
/// [`VmmError`].
pub fn stop(dir: &VmDir, vm: &str, manner: Manner, _lock: &VmLock) -> Result<bool, VmmError> {
    let ran = is_alive(dir);
    if ran {
        end(dir, vm, manner)?;
    }
    let ran = ran || end_without_files(dir, vm)?;
    clean(dir, vm)?;
    let mut handles = Handles::load(dir);
    let recorded = handles.vmm.take().is_some();
    if recorded {
        handles.save_less(dir)?;
    }
    Ok(ran || recorded)
}

/// Whether a VM runs whose files somebody removed under it: its lock is still held, and nothing in the directory says so.
pub fn runs_without_files(dir: &VmDir) -> bool {
    holders_without_files(dir).is_ok_and(|holders| !holders.is_empty())
}

fn holders_without_files(dir: &VmDir) -> std::io::Result<Vec<Holder>> {
    let lock = dir.run_lock();
    if lock.exists() {
        return Ok(Vec::new());
    }
    let end: PathBuf = dir.path().file_name().into_iter().chain(lock.file_name()).collect();
    holders::of_removed(&end)
}

/// Kills what runs of such a VM; whether anything did.
fn end_without_files(dir: &VmDir, vm: &str) -> Result<bool, VmmError> {
    let failed = |source| VmmError::End { vm: vm.to_owned(), source };
    let until = Instant::now() + KILL_LIMIT;
    let mut ran = false;
    loop {
        let holders = holders_without_files(dir).map_err(failed)?;
        if holders.is_empty() {
            return Ok(ran);
        }
        ran = true;
        holders.iter().try_for_each(Holder::kill).map_err(failed)?;
        if !holders::wait(&holders, until).map_err(failed)? {
            return Err(VmmError::Undead(vm.to_owned()));
        }
    }
}

/// Removes the sockets of a VM that does not run.
fn clean(dir: &VmDir, vm: &str) -> Result<(), VmmError> {
    match unix::remove(dir.path(), &SOCKETS) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(VmmError::End { vm: vm.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn end(dir: &VmDir, vm: &str, manner: Manner) -> Result<(), VmmError> {
    let failed = |source| VmmError::End { vm: vm.to_owned(), source };
    let holders = find(dir).map_err(failed)?;
    let (path, body, patience) = match manner {
        Manner::Kill => ("/v1/kill", String::new(), KILL_LIMIT / 2),
        Manner::Ask(deadlines) => {
            let body = StopRequest::from(deadlines);
            let body = serde_json::to_string(&body).expect("numbers are JSON");
            ("/v1/stop", body, deadlines.longest())
        }
    };
    let told = unix::connect(&dir.agent_socket())
        .and_then(|stream| http::exchange(stream, "POST", path, &body, Instant::now() + ANSWER_LIMIT));
    let obeys = matches!(told, Ok((202, _)));
    if obeys && holders::wait(&holders, soon(patience)).map_err(failed)? && !is_alive(dir) {
        return Ok(());
    }
    kill(dir, vm, holders)
}

fn soon(limit: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(limit).unwrap_or(now + Duration::from_secs(3600))
}

/// Who holds the run lock: those that the handles name, or, where these do not, whoever it is.
fn find(dir: &VmDir) -> std::io::Result<Vec<Holder>> {
    let hints = Handles::load(dir).vmm.map(|vmm| [vmm.supervisor_pid, vmm.pid]);
    if let Some(hints) = hints {
        let holders = holders::of(&dir.run_lock(), Some(&hints))?;
        if holders.len() == hints.len() {
            return Ok(holders);
        }
    }
    holders::of(&dir.run_lock(), None)
}

/// The process of the VMM: the holder of the run lock that the supervisor started. `None` where nobody holds it.
///
/// # Errors
/// /proc cannot be read.
pub fn vmm_pid(dir: &VmDir) -> std::io::Result<Option<i32>> {
    let vmm = Handles::load(dir).vmm;
    let supervisor = vmm.as_ref().map(|vmm| vmm.supervisor_pid);
    let holders = find(dir)?;
    let of_vmm = |holder: &&Holder| match (&vmm, supervisor) {
        (Some(vmm), _) if holder.pid() == vmm.pid => true,
        (_, supervisor) => supervisor.is_some_and(|pid| pid != holder.pid()),
    };
    Ok(holders.iter().find(of_vmm).map(Holder::pid))
}

/// Kills whoever holds the run lock until nobody does.
fn kill(dir: &VmDir, vm: &str, mut holders: Vec<Holder>) -> Result<(), VmmError> {
    let failed = |source| VmmError::End { vm: vm.to_owned(), source };
    let until = Instant::now() + KILL_LIMIT;
    while is_alive(dir) {
        holders.iter().try_for_each(Holder::kill).map_err(failed)?;
        let ended = holders::wait(&holders, until).map_err(failed)?;
        holders = holders::of(&dir.run_lock(), None).map_err(failed)?;
        if !ended || Instant::now() >= until {
            return Err(VmmError::Undead(vm.to_owned()));
        }
        if holders.is_empty() {
            // Whoever is about to end shows no descriptors any more while the kernel closes them, and holds the lock until it has.
            std::thread::sleep(GLANCE);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_state::dir::StateDir;

    #[test]
    fn a_lock_whose_holder_is_not_seen_is_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::at(temp.path());
        let id = "0a1b2c3d4e5f".parse().unwrap();
        let dir = VmDir::at(state.vm(&id));
        std::fs::create_dir_all(dir.path()).unwrap();
        std::fs::create_dir(state.locks()).unwrap();
        let guard = VmLock::acquire(&state, &id, "test").unwrap();
        // This process is never among the holders; one that ends is not, either.
        let file = std::fs::File::create(dir.run_lock()).unwrap();
        file.lock().unwrap();
        let ending = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(file);
        });
        assert!(stop(&dir, "dev1", Manner::Kill, &guard).unwrap());
        ending.join().unwrap();
    }
}
