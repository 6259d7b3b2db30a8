//! Symbolic links of a checkout that lead round in a circle: git applies no patch that makes a file below one, though the patch removes it.

use std::collections::VecDeque;

/// How many links the kernel follows on the way to one file (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Whether the kernel gives up on its way to `path` in a tree; `target` says where its symbolic links lead. A way that leaves the tree is not
/// followed further.
pub fn is_endless(path: &[u8], mut target: impl FnMut(&[u8]) -> Option<Vec<u8>>) -> bool {
    let parts = |path: &[u8]| path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let mut ahead = VecDeque::from(parts(path));
    let (mut place, mut links) = (Vec::<Vec<u8>>::new(), 0);
    while let Some(part) = ahead.pop_front() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." if place.pop().is_none() => return false,
            b".." => continue,
            _ => place.push(part),
        }
        let Some(target) = target(&place.join(&b'/')) else { continue };
        links += 1;
        if links > MAX_LINKS {
            return true;
        }
        if target.starts_with(b"/") {
            return false;
        }
        place.pop();
        parts(&target).into_iter().rev().for_each(|part| ahead.push_front(part));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_that_lead_round_are_endless() {
        let target = |path: &[u8]| {
            let target: &[u8] = match path {
                b"self" => b"self",
                b"a" => b"d/b",
                b"d/b" => b"../a",
                b"away" => b"../self",
                b"root" => b"/self",
                b"dir" => b"d",
                _ => return None,
            };
            Some(target.to_vec())
        };
        for path in [&b"self/x"[..], b"a/x", b"d/b", b"dir/b/x"] {
            assert!(is_endless(path, target), "{path:?}");
        }
        for path in [&b"away/x"[..], b"root/x", b"dir/x", b"x", b"dir/../x"] {
            assert!(!is_endless(path, target), "{path:?}");
        }
    }
}
