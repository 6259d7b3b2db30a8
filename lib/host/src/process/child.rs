//! What a child process is made to do between fork and exec: lead a session, keep descriptors, die with its parent.

use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

fn check(result: libc::c_int) -> std::io::Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the child the leader of a session of its own, deaf to SIGHUP, with no descriptor but stdin, stdout and stderr: what its
/// parent was handed without close-on-exec does not live on in it.
pub fn lead_session(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and only calls setsid, signal and close_range, which are plain system
    // calls that touch no memory of this process.
    unsafe {
        command.pre_exec(|| {
            check(libc::setsid())?;
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            // Linux before 5.11 lacks the flag: then the descriptors stay, which costs nothing but tidiness.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        });
    }
}

/// Lets the child inherit `fds` under their own numbers. They must stay open until the child has been started.
pub fn keep_open(command: &mut Command, fds: Vec<RawFd>) {
    // SAFETY: the closure runs between fork and exec and only calls fcntl, which is async-signal-safe (signal-safety(7)); the
    // list was allocated before the fork.
    unsafe {
        command.pre_exec(move || fds.iter().try_for_each(|fd| check(libc::fcntl(*fd, libc::F_SETFD, 0))));
    }
}

/// Has the kernel kill the child when the thread that starts it ends, however it ends (PR_SET_PDEATHSIG, prctl(2)).
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: the closure runs between fork and exec and only calls prctl and getppid, plain system calls without pointers.
    unsafe {
        command.pre_exec(move || {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            // The parent may have ended before the line above: then nobody would tell.
            if u32::try_from(libc::getppid()) == Ok(parent) {
                Ok(())
            } else {
                Err(std::io::Error::from_raw_os_error(libc::ESRCH))
            }
        });
    }
}

/// Limits what the child may have of `resource` to `amount` (setrlimit(2)), from its first instruction on: set by us later, it would come
/// too late for a child that takes all at once.
pub fn limit(command: &mut Command, resource: libc::__rlimit_resource_t, amount: u64) {
    let limit = libc::rlimit { rlim_cur: amount, rlim_max: amount };
    // SAFETY: the closure runs between fork and exec and only calls setrlimit, a plain system call, with a value of its own.
    unsafe { command.pre_exec(move || check(libc::setrlimit(resource, &raw const limit))) };
}
