//! The directories of a filesystem that is being written: names and what they stand for, about 60 bytes of memory for each.
//!
//! A name that is removed stays in its place without an inode, since it often comes back; only [`Names::clear`] takes names off a
//! directory's list.

use std::hash::{BuildHasher, RandomState};

use super::format::{DIRECTORY, FMT};

/// No name.
const NONE: u32 = u32::MAX;

/// A name in a directory, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name(u32);

/// What a name keeps.
#[derive(Debug, Clone)]
struct Entry {
    /// The directory's inode.
    parent: u32,
    /// What it stands for; 0: nothing any more.
    inode: u32,
    /// Where its bytes begin.
    at: u32,
    /// The next of the same directory.
    next: u32,
    /// What the caller keeps of it.
    mark: u16,
    len: u8,
    listed: bool,
}

/// What an inode keeps in memory.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// The first name of a directory; the name of the directory itself is `own`.
    first: u32,
    own: u32,
    mode: u16,
    /// What the caller keeps of it.
    mark: u16,
}

/// All names.
#[derive(Debug)]
pub(super) struct Names {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    nodes: Vec<Node>,
    /// Open addressing: numbers of entries, at most half full.
    table: Vec<u32>,
    hasher: RandomState,
}

impl Names {
    /// Inodes up to `reserved` have no names.
    pub(super) fn new(reserved: u32) -> Self {
        let node = Node { first: NONE, own: NONE, mode: 0, mark: 0 };
        let nodes = vec![node; reserved as usize + 1];
        let hasher = RandomState::new();
        Self { bytes: Vec::new(), entries: Vec::new(), nodes, table: vec![NONE; 1024], hasher }
    }

    /// The number of the next inode.
    pub(super) fn next_inode(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// A new inode.
    pub(super) fn add_node(&mut self, mode: u16) -> u32 {
        let inode = self.next_inode();
        self.nodes.push(Node { first: NONE, own: NONE, mode, mark: 0 });
        inode
    }

    /// Sets what `inode` is.
    pub(super) fn set_mode(&mut self, inode: u32, mode: u16) {
        self.nodes[inode as usize].mode = mode;
    }

    /// What `inode` is.
    pub(super) fn mode(&self, inode: u32) -> u16 {
        self.nodes[inode as usize].mode
    }

    /// Whether `inode` is a directory.
    pub(super) fn is_directory(&self, inode: u32) -> bool {
        self.mode(inode) & FMT == DIRECTORY
    }

    fn slot(&self, parent: u32, name: &[u8]) -> usize {
        let mask = self.table.len() - 1;
        let mut at = self.hasher.hash_one((parent, name)) as usize & mask;
        loop {
            match self.table[at] {
                NONE => return at,
                found if self.is(found, parent, name) => return at,
                _ => at = (at + 1) & mask,
            }
        }
    }

    fn is(&self, entry: u32, parent: u32, name: &[u8]) -> bool {
        self.entries[entry as usize].parent == parent && self.bytes_of(entry) == name
    }

    fn bytes_of(&self, entry: u32) -> &[u8] {
        let entry = &self.entries[entry as usize];
        &self.bytes[entry.at as usize..][..usize::from(entry.len)]
    }

    /// The name and its inode.
    pub(super) fn find(&self, parent: u32, name: &[u8]) -> Option<(Name, u32)> {
        let entry = self.table[self.slot(parent, name)];
        if entry == NONE {
            return None;
        }
        let inode = self.entries[entry as usize].inode;
        (inode != 0).then_some((Name(entry), inode))
    }

    /// Lets the name, at most 255 bytes long, stand for `inode`. It stands for nothing before.
    pub(super) fn insert(&mut self, parent: u32, name: &[u8], inode: u32, mark: u16) -> Name {
        if (self.entries.len() + 1) * 2 > self.table.len() {
            self.rehash();
        }
        let slot = self.slot(parent, name);
        let mut number = self.table[slot];
        if number == NONE {
            number = self.entries.len() as u32;
            let (at, len) = (self.bytes.len() as u32, name.len() as u8);
            self.bytes.extend_from_slice(name);
            self.entries.push(Entry { parent, inode, at, next: NONE, mark, len, listed: false });
            self.table[slot] = number;
        }
        let first = self.nodes[parent as usize].first;
        let entry = &mut self.entries[number as usize];
        (entry.inode, entry.mark) = (inode, mark);
        if !entry.listed {
            (entry.listed, entry.next) = (true, first);
            self.nodes[parent as usize].first = number;
        }
        if self.is_directory(inode) {
            self.nodes[inode as usize].own = number;
        }
        Name(number)
    }

    fn rehash(&mut self) {
        self.table = vec![NONE; self.table.len() * 2];
        for number in 0..self.entries.len() as u32 {
            let (parent, name) = (self.entries[number as usize].parent, self.bytes_of(number));
            let slot = self.slot(parent, name);
            self.table[slot] = number;
        }
    }

    /// Lets the name stand for nothing.
    pub(super) fn remove(&mut self, name: Name) {
        self.entries[name.0 as usize].inode = 0;
    }

    /// Takes all names off the directory's list, and gives those that stood for something.
    pub(super) fn clear(&mut self, directory: u32) -> Vec<(Name, u32)> {
        let mut gone = Vec::new();
        let mut at = std::mem::replace(&mut self.nodes[directory as usize].first, NONE);
        while at != NONE {
            let entry = &mut self.entries[at as usize];
            if entry.inode != 0 {
                gone.push((Name(at), entry.inode));
            }
            (entry.inode, entry.listed) = (0, false);
            at = entry.next;
        }
        gone
    }

    /// The names of a directory that stand for something.
    pub(super) fn list(&self, directory: u32) -> impl Iterator<Item = (Name, u32)> {
        let next = |at: u32| (at != NONE).then_some(at);
        let numbers = std::iter::successors(next(self.nodes[directory as usize].first), move |at| {
            next(self.entries[*at as usize].next)
        });
        numbers.map(|at| (Name(at), self.entries[at as usize].inode)).filter(|(_, inode)| *inode != 0)
    }

    /// A name's bytes.
    pub(super) fn text(&self, name: Name) -> &[u8] {
        self.bytes_of(name.0)
    }

    /// How many names there are or were.
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all names together.
    pub(super) fn text_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What the caller keeps of a name.
    pub(super) fn mark(&self, name: Name) -> u16 {
        self.entries[name.0 as usize].mark
    }

    /// Sets what the caller keeps of a name.
    pub(super) fn set_mark(&mut self, name: Name, mark: u16) {
        self.entries[name.0 as usize].mark = mark;
    }

    /// What the caller keeps of an inode.
    pub(super) fn node_mark(&self, inode: u32) -> u16 {
        self.nodes[inode as usize].mark
    }

    /// Sets what the caller keeps of an inode.
    pub(super) fn set_node_mark(&mut self, inode: u32, mark: u16) {
        self.nodes[inode as usize].mark = mark;
    }

    /// The directory that holds the directory `inode`; the root's is itself.
    pub(super) fn parent(&self, inode: u32) -> u32 {
        match self.nodes[inode as usize].own {
            NONE => inode,
            own => self.entries[own as usize].parent,
        }
    }

    /// The name of the directory `inode`.
    pub(super) fn name_of(&self, inode: u32) -> Option<Name> {
        Some(self.nodes[inode as usize].own).filter(|own| *own != NONE).map(Name)
    }

    /// How many names stand for each inode. A directory's subdirectories count for it, and itself twice.
    pub(super) fn links(&self) -> Vec<u32> {
        let mut links = vec![0; self.nodes.len()];
        for entry in self.entries.iter().filter(|entry| entry.inode != 0) {
            if self.is_directory(entry.inode) {
                links[entry.inode as usize] += 2;
                links[entry.parent as usize] += 1;
            } else {
                links[entry.inode as usize] += 1;
            }
        }
        links
    }

    /// A path to `inode`, for messages.
    pub(super) fn path(&self, inode: u32) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut at = self.entries.iter().position(|entry| entry.inode == inode).map_or(NONE, |n| n as u32);
        while at != NONE {
            parts.push(self.bytes_of(at));
            at = self.nodes[self.entries[at as usize].parent as usize].own;
        }
        parts.reverse();
        parts.join(&b'/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_go_and_come_back() {
        let mut names = Names::new(2);
        names.set_mode(2, DIRECTORY);
        let inodes: Vec<u32> = (0..5000).map(|_| names.add_node(0o100_644)).collect();
        for (i, inode) in inodes.iter().enumerate() {
            names.insert(2, format!("file{i}").as_bytes(), *inode, 0);
        }
        assert_eq!(names.list(2).count(), 5000);
        let (name, inode) = names.find(2, b"file77").unwrap();
        assert_eq!((names.text(name), inode), (&b"file77"[..], inodes[77]));
        names.remove(name);
        assert!(names.find(2, b"file77").is_none());
        assert_eq!(names.list(2).count(), 4999);
        names.insert(2, b"file77", inodes[78], 3);
        assert_eq!(names.links()[inodes[78] as usize], 2);
        assert_eq!(names.clear(2).len(), 5000);
        assert_eq!(names.list(2).count(), 0);
        names.insert(2, b"file1", inodes[1], 0);
        assert_eq!(names.list(2).count(), 1);
    }
}
