//! How this process takes memory from the kernel.

/// From which size on a block of memory is a mapping of its own, bytes.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 1 << 20;

/// Sees to it that large blocks are mappings of their own for as long as this process lives: they grow in place, and go back to the
/// kernel when they are dropped. By itself glibc takes blocks up to the size of the largest that was ever dropped from its heap
/// (mallopt(3), M_MMAP_THRESHOLD), where what grows is copied and leaves holes behind.
pub fn map_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt may be called at any time and by any thread; it takes no pointers. A refusal leaves things as they are.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
    }
}
