//! What is ignored: by the `.gitignore` files as they lie on the disk, and by the rules that were sent. What the guest's git is told
//! elsewhere counts for nothing.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use gix_ignore::Search;
use gix_ignore::glob::pattern::Case;
use gix_ignore::search::Ignore;

/// Rules, those that win last.
pub struct Rules(Search);

const HOW: Ignore = Ignore { support_precious: false };

impl Rules {
    /// The rules that were sent.
    pub fn new(sent: &[u8]) -> Self {
        let mut search = Search::default();
        // Rules without a root have no path that could be refused.
        drop(search.add_patterns_buffer(sent, "sent", None, HOW));
        Self(search)
    }

    /// The rules that were sent of the repository at `path` in the tree.
    pub fn of_repository(path: &[u8], sent: &[u8]) -> Self {
        let mut rules = Self(Search::default());
        rules.push(&[path, b"/sent"].concat(), sent);
        rules
    }

    /// How many files of rules there are.
    pub fn depth(&self) -> usize {
        self.0.patterns.len()
    }

    /// Adds the rules of the file at `path`, from the root of the tree.
    pub fn push(&mut self, path: &[u8], text: &[u8]) {
        let path = PathBuf::from(OsString::from_vec(path.to_vec()));
        drop(self.0.add_patterns_buffer(text, path, Some(Path::new("")), HOW));
    }

    /// Goes back to `depth` files.
    pub fn truncate(&mut self, depth: usize) {
        self.0.patterns.truncate(depth);
    }

    /// Whether what is at `path` is ignored. What a directory holds that is ignored is not asked for.
    pub fn ignores(&self, path: &[u8], is_dir: bool) -> bool {
        let found = self.0.pattern_matching_relative_path(path.into(), Some(is_dir), Case::Sensitive);
        found.is_some_and(|found| !found.pattern.is_negative())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_deeper_files_win_and_those_that_were_sent_come_last() {
        let mut rules = Rules::new(b"*.log\n/top\n");
        assert!(
            rules.ignores(b"d/x.log", false)
                && rules.ignores(b"top", true)
                && !rules.ignores(b"d/top", false)
        );
        rules.push(b".gitignore", b"build/\n*.o\n!keep.o\n");
        assert!(rules.ignores(b"build", true) && !rules.ignores(b"build", false));
        assert!(rules.ignores(b"d/a.o", false) && !rules.ignores(b"d/keep.o", false));
        let depth = rules.depth();
        rules.push(b"d/.gitignore", b"/only\n!x.log\n");
        assert!(
            rules.ignores(b"d/only", false)
                && !rules.ignores(b"only", false)
                && !rules.ignores(b"d/e/only", false)
        );
        assert!(!rules.ignores(b"d/x.log", false));
        rules.truncate(depth);
        assert!(rules.ignores(b"d/x.log", false));
    }
}
