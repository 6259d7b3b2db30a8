//! An inode's 256 bytes.

use super::crc32c;
use super::format::{INODE, get16, get32, inode_seed, put16, put32};
use super::xattr::Xattr;

/// The block map is extents.
const EXTENTS_FLAG: u32 = 0x8_0000;
const BLOCK_MAP: usize = 0x28;
const CHECKSUM_LOW: usize = 0x7c;
const CHECKSUM_HIGH: usize = 0x82;

/// A point in time; before and after the years 1901 to 2446 ext4 has the nearest that it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanos: u32,
}

/// What is known of a file besides its content.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// Type and permission bits, as stat(2) has them.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was changed.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
}

/// An inode as it stands on disk, but for its checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inode(pub(super) [u8; INODE]);

impl Inode {
    /// No file at all.
    pub(super) const FREE: Self = Self([0; INODE]);

    /// One without content.
    pub(super) fn new(attributes: &Attributes) -> Self {
        let mut inode = Self::FREE;
        let bytes = &mut inode.0;
        put16(bytes, 0, attributes.mode);
        put16(bytes, 0x02, attributes.uid as u16);
        put16(bytes, 0x78, (attributes.uid >> 16) as u16);
        put16(bytes, 0x18, attributes.gid as u16);
        put16(bytes, 0x7a, (attributes.gid >> 16) as u16);
        put16(bytes, 0x80, 32);
        let (time, extra) = encode(attributes.mtime);
        // Access, change, modification and creation: an image that is made twice is the same twice.
        for (at, extra_at) in [(0x08, 0x8c), (0x0c, 0x84), (0x10, 0x88), (0x90, 0x94)] {
            put32(bytes, at, time);
            put32(bytes, extra_at, extra);
        }
        inode
    }

    pub(super) fn mode(&self) -> u16 {
        get16(&self.0, 0)
    }

    pub(super) fn size(&self) -> u64 {
        u64::from(get32(&self.0, 0x6c)) << 32 | u64::from(get32(&self.0, 4))
    }

    pub(super) fn set_size(&mut self, size: u64) {
        put32(&mut self.0, 4, size as u32);
        put32(&mut self.0, 0x6c, (size >> 32) as u32);
    }

    pub(super) fn set_links(&mut self, links: u16) {
        put16(&mut self.0, 0x1a, links);
    }

    /// Counts `blocks` more.
    pub(super) fn add_blocks(&mut self, blocks: u64) {
        let now = u64::from(get16(&self.0, 0x74)) << 32 | u64::from(get32(&self.0, 0x1c));
        let sectors = now + blocks * 8;
        put32(&mut self.0, 0x1c, sectors as u32);
        put16(&mut self.0, 0x74, (sectors >> 32) as u16);
    }

    /// The block map: a target, a device or the root of the extents.
    pub(super) fn map(&self) -> &[u8] {
        &self.0[BLOCK_MAP..BLOCK_MAP + 60]
    }

    pub(super) fn map_mut(&mut self) -> &mut [u8] {
        &mut self.0[BLOCK_MAP..BLOCK_MAP + 60]
    }

    /// Makes `root` its extents.
    pub(super) fn set_extents(&mut self, root: &[u8; 60]) {
        self.map_mut().copy_from_slice(root);
        put32(&mut self.0, 0x20, EXTENTS_FLAG);
    }

    pub(super) fn has_extents(&self) -> bool {
        get32(&self.0, 0x20) & EXTENTS_FLAG != 0
    }

    /// The block with its extended attributes.
    pub(super) fn xattr_block(&self) -> Option<u64> {
        let at = u64::from(get16(&self.0, 0x76)) << 32 | u64::from(get32(&self.0, 0x68));
        (at != 0).then_some(at)
    }

    pub(super) fn set_xattr_block(&mut self, at: u64) {
        put32(&mut self.0, 0x68, at as u32);
        put16(&mut self.0, 0x76, (at >> 32) as u16);
        self.add_blocks(1);
    }

    /// Forgets content and what counts it; attributes in the inode stay.
    pub(super) fn without_blocks(mut self) -> Self {
        self.map_mut().fill(0);
        put32(&mut self.0, 0x20, 0);
        put32(&mut self.0, 0x68, 0);
        put16(&mut self.0, 0x76, 0);
        put32(&mut self.0, 0x1c, 0);
        put16(&mut self.0, 0x74, 0);
        self
    }

    /// Writes the checksum of the inode `number`.
    pub(super) fn seal(&mut self, seed: u32, number: u32) {
        put16(&mut self.0, CHECKSUM_LOW, 0);
        put16(&mut self.0, CHECKSUM_HIGH, 0);
        let checksum = crc32c::update(inode_seed(seed, number), &self.0);
        put16(&mut self.0, CHECKSUM_LOW, checksum as u16);
        put16(&mut self.0, CHECKSUM_HIGH, (checksum >> 16) as u16);
    }
}

/// Seconds, and above the nanoseconds two bits more of them (ext4_encode_extra_time).
fn encode(time: Time) -> (u32, u32) {
    let seconds = time.seconds.clamp(i64::from(i32::MIN), (3 << 32) + i64::from(i32::MAX));
    let epoch = (seconds - i64::from(seconds as i32)) >> 32 & 3;
    (seconds as u32, epoch as u32 | time.nanos.min(999_999_999) << 2)
}

/// A device's number as the block map has it: the old form where it fits (ext4's old_encode_dev and new_encode_dev).
pub(super) fn device_map(major: u32, minor: u32) -> [u8; 8] {
    let mut map = [0; 8];
    if major < 256 && minor < 256 {
        put32(&mut map, 0, major << 8 | minor);
    } else {
        put32(&mut map, 4, minor & 0xff | major << 8 | (minor & !0xff) << 12);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_32_bits_are_kept() {
        let time = |seconds| encode(Time { seconds, nanos: 5 });
        assert_eq!(time(0), (0, 20));
        assert_eq!(time(-1), (u32::MAX, 20));
        assert_eq!(time(1 << 31), (1 << 31, 21));
        assert_eq!(time(i64::MAX), (i32::MAX as u32, 23));
        assert_eq!(time(i64::MIN), (1 << 31, 20));
    }
}
