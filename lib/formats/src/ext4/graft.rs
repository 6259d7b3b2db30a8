//! Copying a directory from one filesystem that is being written into another.

use super::extent::Extents;
use super::format::{BLOCK, ROOT};
use super::inode::Inode;
use super::writer::{Result, WriteError, Writer};
use super::xattr;
use banger_host::fs::reflink;

impl Writer {
    /// Makes the root, which is empty, a copy of the directory `directory` of `from`, with everything below it.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn graft(&mut self, from: &Writer, directory: u32) -> Result<()> {
        let root = from.get_inode(directory)?;
        let root = self.copy_inode(ROOT, from, root)?;
        self.names.set_mode(ROOT, root.mode());
        self.put_inode(ROOT, &root)?;
        // Hard links stay links to one file: the copy of each inode, 0 where there is none yet.
        let mut copies = vec![0; from.names.next_inode() as usize];
        let mut directories = vec![(directory, ROOT)];
        while let Some((source, target)) = directories.pop() {
            for (name, number) in from.list(source) {
                let copy = match copies[number as usize] {
                    0 => self.copy_file(from, number)?,
                    copy => copy,
                };
                copies[number as usize] = copy;
                self.link(target, from.text(name), copy, 0);
                if from.is_directory(number) {
                    directories.push((number, copy));
                }
            }
        }
        Ok(())
    }

    fn copy_file(&mut self, from: &Writer, number: u32) -> Result<u32> {
        let inode = from.get_inode(number)?;
        let copy = self.names.add_node(inode.mode());
        let inode = self.copy_inode(copy, from, inode)?;
        self.put_inode(copy, &inode)?;
        Ok(copy)
    }

    /// The inode `inode` of `from` as the inode `number` of this filesystem, with its data copied.
    fn copy_inode(&mut self, number: u32, from: &Writer, inode: Inode) -> Result<Inode> {
        let mut copy = inode.without_blocks();
        if let Some(block) = inode.xattr_block() {
            let mut block = from.read_block(block)?;
            let at = self.take_one()?;
            xattr::seal(&mut block, self.seed, at);
            self.write_block(at, &block)?;
            copy.set_xattr_block(at);
        }
        if !inode.has_extents() {
            copy.map_mut().copy_from_slice(inode.map());
            return Ok(copy);
        }
        let mut sources = Vec::new();
        from.walk(&inode, |_| {}, |extent| sources.push(extent))?;
        let mut extents = Extents::default();
        for source in sources {
            let mut done = 0;
            while done < u64::from(source.blocks) {
                let (start, count) = self.take(u64::from(source.blocks) - done)?;
                let from_at = (source.physical + done) * BLOCK;
                let copied =
                    reflink::copy_range(&from.file, from_at, &self.file, start * BLOCK, count * BLOCK);
                copied.map_err(WriteError::Disk)?;
                extents.push(source.logical + done as u32, start, count);
                done += count;
            }
        }
        self.set_extents(number, &mut copy, &extents)?;
        Ok(copy)
    }
}
