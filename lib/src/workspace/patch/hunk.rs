//! The lines that carry content: hunks of text and blocks of binary.

/// The lines on either side that `@@ -a,b +c,d @@` announces.
pub fn hunk(line: &[u8]) -> Option<(u64, u64)> {
    let text = line.strip_prefix(b"@@ -")?;
    let end = text.windows(3).position(|w| w == b" @@")?;
    let (old, new) = std::str::from_utf8(&text[..end]).ok()?.split_once(" +")?;
    let count = |range: &str| {
        let (start, count) = range.split_once(',').unwrap_or((range, "1"));
        let number = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<u64>().ok()).flatten();
        number(start)?;
        number(count)
    };
    let counts = (count(old)?, count(new)?);
    (counts != (0, 0)).then_some(counts)
}

/// The lines left on either side of a hunk after `line`.
pub fn in_hunk(line: &[u8], old: u64, new: u64) -> Option<(u64, u64)> {
    match line.first()? {
        b' ' => Some((old.checked_sub(1)?, new.checked_sub(1)?)),
        b'-' => Some((old.checked_sub(1)?, new)),
        b'+' => Some((old, new.checked_sub(1)?)),
        b'\\' => Some((old, new)),
        _ => None,
    }
}

/// `literal N` or `delta N`.
pub(super) fn block(line: &[u8]) -> bool {
    let size = line.strip_prefix(b"literal ").or_else(|| line.strip_prefix(b"delta "));
    size.is_some_and(|n| !n.is_empty() && n.len() <= 12 && n.iter().all(u8::is_ascii_digit))
}
