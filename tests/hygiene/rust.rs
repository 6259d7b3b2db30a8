//! Just enough of Rust's grammar to read sources: what is code and what is text, and which paths the code names.

/// `source` with the content of comments, strings and character literals blanked; lines stay where they are.
pub fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        match end {
            Some(end) => {
                out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
                at = end;
            }
            None => {
                out.push(chars[at]);
                at += 1;
            }
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `None` where code stands there.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => Some(find(chars, at, |c| c == '\n')),
        '/' if next == Some('*') => Some(block_comment_end(chars, at)),
        '"' => Some(string_end(chars, at + 1)),
        'r' if !preceded_by_word(chars, at) => raw_string_end(chars, at),
        '\'' => char_end(chars, at),
        _ => None,
    }
}

fn find(chars: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|&i| wanted(chars[i])).unwrap_or(chars.len())
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A `b` or `c` before it may still begin a literal, as in `br"…"`.
fn preceded_by_word(chars: &[char], at: usize) -> bool {
    let word = chars[..at].iter().rev().take_while(|c| is_word(**c)).count();
    word > 1 || (word == 1 && !matches!(chars[at - 1], 'b' | 'c'))
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let body = at + 1 + hashes;
    if chars.get(body) != Some(&'"') {
        return None;
    }
    let closes = |i: &usize| {
        chars[*i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    Some((body + 1..chars.len()).find(closes).map_or(chars.len(), |i| i + 1 + hashes))
}

/// A character literal, not a lifetime.
fn char_end(chars: &[char], at: usize) -> Option<usize> {
    match (chars.get(at + 1)?, chars.get(at + 2)) {
        ('\\', _) => Some(find(chars, at + 3, |c| c == '\'') + 1),
        (_, Some('\'')) => Some(at + 3),
        _ => None,
    }
}

/// A path that code names, such as `["crate", "sys", "exec"]`, with the line it begins on (from 1) and how many inline
/// modules are around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPath {
    pub line: usize,
    pub inline_modules: usize,
    pub segments: Vec<String>,
}

impl NamedPath {
    /// Whether `first::second` stands anywhere in it.
    pub fn has(&self, first: &str, second: &str) -> bool {
        self.segments.windows(2).any(|pair| pair[0] == first && pair[1] == second)
    }
    /// Whether it names `word` anywhere.
    pub fn names(&self, word: &str) -> bool {
        self.segments.iter().any(|segment| segment == word)
    }
}

/// Every path in `source`, those in the braces of a `use` written out whole. A lone identifier is a path of one segment.
pub fn paths(source: &str) -> Vec<NamedPath> {
    let tokens = tokens(&code_only(source));
    let mut reader = Reader { tokens: &tokens, at: 0, open: Vec::new(), found: Vec::new() };
    reader.read_all();
    reader.found
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    line: usize,
    text: String,
}

fn tokens(code: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for (index, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = match first {
                c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                c => c.len_utf8(),
            };
            tokens.push(Token { line: index + 1, text: rest[..length].to_owned() });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    /// For every open brace: whether it is that of an inline module.
    open: Vec<bool>,
    found: Vec<NamedPath>,
}

impl Reader<'_> {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |t| &t.text)
    }

    fn read_all(&mut self) {
        while self.at < self.tokens.len() {
            let is_module = self.at >= 2 && self.text(self.at - 2) == "mod";
            match self.text(self.at) {
                "{" => self.open.push(is_module),
                "}" => drop(self.open.pop()),
                text if text.starts_with(is_word) => {
                    self.tree(Vec::new());
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// Reads `a::b`, `a::{b, c::d}`, `a::*` from here on and leaves `at` behind it.
    fn tree(&mut self, mut prefix: Vec<String>) {
        let line = self.tokens[self.at].line;
        loop {
            prefix.push(self.text(self.at).to_owned());
            self.at += 1;
            if self.text(self.at) != "::" {
                break;
            }
            match self.text(self.at + 1) {
                "{" => {
                    self.at += 2;
                    return self.branches(&prefix);
                }
                text if text == "*" || text.starts_with(is_word) => self.at += 1,
                // `::<T>`: the path ends, the type in it is another one.
                _ => break,
            }
        }
        let inline_modules = self.open.iter().filter(|module| **module).count();
        self.found.push(NamedPath { line, inline_modules, segments: prefix });
    }

    fn branches(&mut self, prefix: &[String]) {
        while self.at < self.tokens.len() && self.text(self.at) != "}" {
            if self.text(self.at) == "as" {
                self.at += 2;
            } else if self.text(self.at).starts_with(|c| is_word(c) || c == '*') {
                self.tree(prefix.to_vec());
            } else {
                self.at += 1;
            }
        }
        self.at += 1;
    }
}

#[test]
fn text_is_not_code() {
    let source = "a /* b /* c */ d */ \"e // \\\" f\" g // h\nbr#\"i \" j\"# k '\\'' 'l' &'m n for_r\"o\"";
    let words: Vec<String> = paths(source).into_iter().map(|p| p.segments.join("::")).collect();
    assert_eq!(words, ["a", "g", "b", "k", "m", "n", "for_r"].map(str::to_owned), "{}", code_only(source));
}

#[test]
fn use_trees_are_written_out() {
    let source = "use crate::{contract::{Coded, record::*}, sys as s};\nmod tests { fn f() { super::x::<y::Z>(); } } z";
    let all: Vec<(usize, usize, String)> =
        paths(source).into_iter().map(|p| (p.line, p.inline_modules, p.segments.join("::"))).collect();
    assert!(all.contains(&(1, 0, "crate::contract::record::*".to_owned())), "{all:?}");
    assert!(all.contains(&(1, 0, "crate::sys".to_owned())), "{all:?}");
    assert!(all.contains(&(2, 1, "super::x".to_owned())), "{all:?}");
    assert!(all.contains(&(2, 1, "y::Z".to_owned())), "{all:?}");
    assert!(all.contains(&(2, 0, "z".to_owned())), "{all:?}");
}
