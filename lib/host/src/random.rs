//! Random bytes from the kernel, getrandom(2).

/// `N` random bytes, N ≤ 256: such a read is never short once the kernel's pool is initialised, and waits until it is.
pub fn bytes<const N: usize>() -> [u8; N] {
    const { assert!(N <= 256) };
    let mut bytes = [0; N];
    loop {
        // SAFETY: the buffer is valid for N writable bytes.
        let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
        // EINTR is all that can go wrong with a valid buffer on a Linux that has the call (3.17).
        if usize::try_from(count) == Ok(N) {
            return bytes;
        }
    }
}

/// A random UUID (RFC 9562, version 4).
pub fn uuid() -> [u8; 16] {
    let mut uuid = bytes::<16>();
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
