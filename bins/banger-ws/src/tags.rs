//! Tags that travel: those of commits that HEAD's history holds, so that `git describe` says the same in the guest.

use super::checkout::{Checkout, Head};
use super::error::WorkspaceError;
use banger_host::git;

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Its full name.
    pub name: Vec<u8>,
    /// The tag's object, or the commit where it has none of its own.
    pub object: String,
    /// What its object names.
    pub peeled: Option<String>,
    /// Whether that is a commit; git before 2.45 stops at a tag's tag.
    pub is_whole: bool,
}

/// The tags of `checkout` that travel with `head`, sorted by name.
pub fn reachable(checkout: &Checkout, head: &Head) -> Result<Vec<Tag>, WorkspaceError> {
    if head.commit.is_none() {
        return Ok(Vec::new());
    }
    // A name holds no space (git-check-ref-format(1)).
    let format = "--format=%(objectname) %(refname) %(*objectname) %(*objecttype)";
    let said = checkout.git().run(["for-each-ref", "--merged=HEAD", "--sort=refname", format, "refs/tags"]);
    let said = said.map_err(checkout.git_error())?;
    let tags = said.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut words = line.split(|byte| *byte == b' ');
        let (object, name) = (words.next()?, words.next()?);
        let peeled = words.next().filter(|word| !word.is_empty()).map(git::line);
        let is_whole = peeled.is_none() || words.next() == Some(b"commit");
        Some(Tag { name: name.to_vec(), object: git::line(object), peeled, is_whole })
    });
    Ok(tags.collect())
}

/// The objects of `tags`, as lines for pack-objects and rev-list.
pub fn lines(tags: &[Tag]) -> String {
    tags.iter().filter(|tag| tag.peeled.is_some()).map(|tag| tag.object.clone() + "\n").collect()
}
