//! Which files git takes as they are, by its attributes and its configuration.

use banger_host::git::Git;

use crate::checkout::Checkout;
use crate::error::WorkspaceError;

/// Of which of `paths` git takes the bytes as they are, whatever it took them for when it last read them.
///
/// # Errors
/// Those of git.
pub fn taken_as_they_are(
    git: &Git,
    checkout: &Checkout,
    has_attributes: bool,
    paths: &[&[u8]],
) -> Result<Vec<bool>, WorkspaceError> {
    let converts = |name: &str| checkout.config.get(name).is_some_and(|value| value != b"false");
    if converts("core.autocrlf") {
        return Ok(vec![false; paths.len()]);
    }
    if !has_attributes {
        return Ok(vec![true; paths.len()]);
    }
    let names = ATTRIBUTES.iter().chain(&["text", "eol", "crlf"]);
    let input: Vec<u8> = paths.iter().flat_map(|path| [path, &b"\0"[..]].concat()).collect();
    let exec = git.exec(["check-attr", "-z", "--stdin"].iter().chain(names.clone())).stdin(input);
    let said = exec.run().map_err(checkout.git_error())?;
    let values: Vec<&[u8]> = said.split(|byte| *byte == 0).skip(2).step_by(3).collect();
    let is_none = |value: &&[u8]| matches!(*value, b"unspecified" | b"unset");
    let plain = values.chunks_exact(names.count()).map(|values| values.iter().all(is_none));
    Ok(plain.chain(std::iter::repeat(false)).take(paths.len()).collect())
}

/// What has git make other bytes of a file, of the same size perhaps (gitattributes(5)).
pub const ATTRIBUTES: [&str; 3] = ["ident", "filter", "working-tree-encoding"];
