//! Extended attributes: in the inode behind its fields where they fit, else in a block of their own.

use super::crc32c;
use super::format::{BLOCK_LEN, INODE, put16, put32};

const MAGIC: u32 = 0xea02_0000;
/// Where the attributes begin in an inode: behind 128 bytes and the 32 of i_extra_isize.
const IN_INODE: usize = 160;

/// An attribute: its full name, such as `user.x`, and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// An attribute that ext4 cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum XattrError {
    /// They do not fit into a block.
    TooLarge,
    /// No such namespace, or a value that is not of its shape.
    Invalid,
}

/// As ext4 keeps it: which namespace, the rest of the name, the value.
struct Stored<'a> {
    index: u8,
    name: &'a [u8],
    value: Vec<u8>,
}

impl Stored<'_> {
    fn entry_len(&self) -> usize {
        (16 + self.name.len()).next_multiple_of(4)
    }
    fn value_len(&self) -> usize {
        self.value.len().next_multiple_of(4)
    }
    /// As the kernel's ext4_xattr_hash_entry.
    fn hash(&self) -> u32 {
        let name = self.name.iter().fold(0u32, |hash, c| hash << 5 ^ hash >> 27 ^ u32::from(*c));
        self.value.chunks(4).fold(name, |hash, chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            hash << 16 ^ hash >> 16 ^ u32::from_le_bytes(word)
        })
    }
}

/// The namespaces by number. The longer of two that share a beginning comes first.
const NAMESPACES: [(u8, &[u8]); 5] = [
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
];

/// Whether ext4 has a place for an attribute of this name.
pub fn is_storable(name: &[u8]) -> bool {
    namespace(name).is_some()
}

fn namespace(name: &[u8]) -> Option<(u8, &[u8])> {
    NAMESPACES.into_iter().find_map(|(index, prefix)| {
        let rest = name.strip_prefix(prefix)?;
        let whole = matches!(index, 2 | 3);
        (rest.is_empty() == whole && rest.len() <= 255).then_some((index, rest))
    })
}

fn stored(xattr: &Xattr) -> Result<Stored<'_>, XattrError> {
    let (index, name) = namespace(&xattr.0).ok_or(XattrError::Invalid)?;
    let value = if matches!(index, 2 | 3) { acl(&xattr.1)? } else { xattr.1.clone() };
    Ok(Stored { index, name, value })
}

/// An access control list as ext4 keeps it (ext4_acl_header), out of what getxattr(2) gives (posix_acl_xattr_header).
fn acl(value: &[u8]) -> Result<Vec<u8>, XattrError> {
    let entries = value.strip_prefix(&[2, 0, 0, 0]).ok_or(XattrError::Invalid)?;
    if entries.len() % 8 != 0 {
        return Err(XattrError::Invalid);
    }
    let mut acl = vec![1, 0, 0, 0];
    for entry in entries.chunks_exact(8) {
        // ACL_USER and ACL_GROUP name somebody; the others do not.
        let named = matches!(entry[0], 2 | 8);
        acl.extend_from_slice(&entry[..if named { 8 } else { 4 }]);
    }
    Ok(acl)
}

/// Puts `xattrs` into `inode` where they fit; else gives the block that they need.
pub(super) fn place(xattrs: &[Xattr], inode: &mut [u8; INODE]) -> Result<Option<Vec<u8>>, XattrError> {
    if xattrs.is_empty() {
        return Ok(None);
    }
    let mut list = xattrs.iter().map(stored).collect::<Result<Vec<_>, _>>()?;
    // The order in which the kernel looks for them in a block.
    list.sort_by(|a, b| (a.index, a.name.len(), a.name).cmp(&(b.index, b.name.len(), b.name)));
    list.dedup_by(|a, b| (a.index, a.name) == (b.index, b.name));
    let size = 4 + list.iter().map(|x| x.entry_len() + x.value_len()).sum::<usize>();
    let room = INODE - IN_INODE - 4;
    if size <= room {
        put32(inode, IN_INODE, MAGIC);
        fill(&mut inode[IN_INODE + 4..], 0, &list);
        return Ok(None);
    }
    if size > BLOCK_LEN - 32 {
        return Err(XattrError::TooLarge);
    }
    let mut block = vec![0; BLOCK_LEN];
    put32(&mut block, 0, MAGIC);
    put32(&mut block, 4, 1);
    put32(&mut block, 8, 1);
    let hash = list.iter().fold(0u32, |hash, x| hash << 16 ^ hash >> 16 ^ x.hash());
    put32(&mut block, 12, hash);
    fill(&mut block, 32, &list);
    Ok(Some(block))
}

/// Entries from `start` on, values from the end backwards.
fn fill(area: &mut [u8], start: usize, list: &[Stored]) {
    let (mut at, mut end) = (start, area.len());
    for xattr in list {
        end -= xattr.value_len();
        area[at] = xattr.name.len() as u8;
        area[at + 1] = xattr.index;
        put16(area, at + 2, if xattr.value.is_empty() { 0 } else { end as u16 });
        put32(area, at + 8, xattr.value.len() as u32);
        put32(area, at + 12, xattr.hash());
        area[at + 16..at + 16 + xattr.name.len()].copy_from_slice(xattr.name);
        area[end..end + xattr.value.len()].copy_from_slice(&xattr.value);
        at += xattr.entry_len();
    }
}

/// Writes the checksum of `block`, which stands at `at` on disk.
pub(super) fn seal(block: &mut [u8], seed: u32, at: u64) {
    put32(block, 16, 0);
    let checksum = crc32c::update(crc32c::update(seed, &at.to_le_bytes()), block);
    put32(block, 16, checksum);
}
