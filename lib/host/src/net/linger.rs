//! A process that stays behind for what the kernel is slow to come back from.
//!
//! When links are removed, or a socket is closed by which rules were removed, the kernel waits until no processor can be using them any
//! more (rcu_barrier() in br_multicast_dev_del() and netdev_run_todo(), synchronize_rcu() in nf_tables_trans_destroy_work()), 10 to
//! 20 ms each. They are out of everybody's sight long before, and nothing can keep them from going. So a fork of this process makes
//! the call and waits, without any descriptor that it does not need for that, and ends by itself.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// The largest answer that is passed on, bytes; less than PIPE_BUF, so that it is passed on whole (pipe(7)).
pub const ANSWER: usize = 2048;

/// What the process that stays behind tells.
#[derive(Debug)]
pub struct Linger {
    answer: io::PipeReader,
}

/// Forks a process that keeps `held` open and nothing else, sends `request` (a socket of `held`, and the bytes) and waits for one
/// datagram in answer, if there is one, and ends.
///
/// # Errors
/// As pipe(2) and fork(2): then there is no such process.
pub fn stay_behind(held: &[BorrowedFd<'_>], request: Option<(BorrowedFd<'_>, &[u8])>) -> io::Result<Linger> {
    let (answer, told) = io::pipe()?;
    let mut kept: Vec<RawFd> = held.iter().map(AsRawFd::as_raw_fd).chain([told.as_raw_fd()]).collect();
    kept.sort_unstable();
    let mut buffer = [0; ANSWER];
    // SAFETY: the child only calls `linger`, which makes plain system calls, allocates nothing and never returns, so it does not
    // matter which locks other threads of the parent held.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => linger(&kept, told.as_raw_fd(), request, &mut buffer),
        _ => Ok(Linger { answer }),
    }
}

/// Forks a process that does `work` with no descriptor of this one's but `held`, and ends; nobody learns how. Only for a process with
/// one thread: in the fork it is the only one, and `work` may want what another held.
///
/// # Errors
/// As fork(2): then nothing is done.
pub fn leave_behind(held: &[BorrowedFd<'_>], work: impl FnOnce()) -> io::Result<()> {
    let mut kept: Vec<RawFd> = held.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    // SAFETY: with one thread nothing is held by another, so the child can do what the parent could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // Where that cannot be, whoever reads what this process wrote waits for the fork as well.
            let _closed = close_all_but(&kept);
            drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)));
            // SAFETY: as in `linger`.
            unsafe { libc::_exit(0) }
        }
        _ => Ok(()),
    }
}

impl Linger {
    /// What the answer was; empty where the process has ended, or could not even begin, without one. Waits for either.
    ///
    /// # Errors
    /// As read(2).
    pub fn answer(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.answer.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl AsFd for Linger {
    /// Readable once [`Self::answer`] does not wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.answer.as_fd()
    }
}

/// The child: async-signal-safe calls alone (signal-safety(7)).
fn linger(
    kept: &[RawFd],
    told: RawFd,
    request: Option<(BorrowedFd<'_>, &[u8])>,
    buffer: &mut [u8; ANSWER],
) -> ! {
    let alone = close_all_but(kept);
    if let Some((socket, bytes)) = request
        && alone
    {
        let socket = socket.as_raw_fd();
        // SAFETY: both buffers are as long as said, and outlive the calls.
        unsafe {
            let sent = libc::send(socket, bytes.as_ptr().cast(), bytes.len(), 0);
            let length =
                if sent < 0 { -1 } else { libc::recv(socket, buffer.as_mut_ptr().cast(), ANSWER, 0) };
            if let Ok(length) = usize::try_from(length) {
                libc::write(told, buffer.as_ptr().cast(), length);
            }
        }
    }
    // SAFETY: _exit() ends the process at once, without anything of the parent's that would run at its exit.
    unsafe { libc::_exit(0) }
}

/// Closes every descriptor that is not in `kept`, which is sorted; `false` where that cannot be (Linux before 5.9).
fn close_all_but(kept: &[RawFd]) -> bool {
    let mut from: libc::c_uint = 0;
    let mut closed = true;
    for fd in kept {
        let fd = fd.cast_unsigned();
        closed &= fd <= from || close_range(from, fd - 1);
        from = fd + 1;
    }
    closed && close_range(from, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> bool {
    // SAFETY: the child of a fork owns its descriptors, and uses none but those that are kept.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn it_asks_passes_the_answer_on_and_holds_nothing_else() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let (mut unrelated, open) = io::pipe().unwrap();
        let request = Some((theirs.as_fd(), &b"question"[..]));
        let linger = stay_behind(&[theirs.as_fd()], request).unwrap();
        drop(open);
        let mut question = [0; 16];
        let length = ours.recv(&mut question).unwrap();
        assert_eq!(&question[..length], b"question");
        // It still waits for the answer, and this pipe is closed all the same.
        assert_eq!(unrelated.read(&mut question).unwrap(), 0);
        ours.send(b"answer").unwrap();
        assert_eq!(linger.answer().unwrap(), b"answer");
    }

    #[test]
    fn what_is_left_behind_works_and_holds_nothing() {
        // Tests have threads; this work allocates nothing and so needs none of theirs.
        let (mut unrelated, open) = io::pipe().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = std::ffi::CString::new(dir.path().join("done").to_str().unwrap()).unwrap();
        // SAFETY: the path is a string that outlives the call.
        leave_behind(&[], || assert_eq!(unsafe { libc::mkdir(path.as_ptr(), 0o700) }, 0)).unwrap();
        drop(open);
        assert_eq!(unrelated.read(&mut [0; 1]).unwrap(), 0);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !dir.path().join("done").exists() && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(dir.path().join("done").exists());
    }

    #[test]
    fn without_a_request_or_with_one_that_cannot_be_made_it_ends() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        assert_eq!(stay_behind(&[], None).unwrap().answer().unwrap(), b"");
        drop(ours);
        let request = Some((theirs.as_fd(), &b"question"[..]));
        assert_eq!(stay_behind(&[theirs.as_fd()], request).unwrap().answer().unwrap(), b"");
    }
}
