//! Who the user is to git, from `git config --global`.

use std::time::Duration;

use banger_host::process::exec::Exec;

/// `user.name` and `user.email` of the user's own configuration. Whatever is absent, longer than 1 KiB, no UTF-8 or holds control
/// characters is `None`, git itself included.
pub fn global() -> (Option<String>, Option<String>) {
    let git = Exec::new("git").args(["config", "--global", "-z", "--get-regexp", r"^user\.(name|email)$"]);
    let printed = git.deadline(Duration::from_secs(5)).stdout_limit(64 << 10).run().unwrap_or_default();
    parse(&printed)
}

/// Entries end with NUL; the key ends with a newline. Of several the last counts.
fn parse(printed: &[u8]) -> (Option<String>, Option<String>) {
    let (mut name, mut email) = (None, None);
    for entry in printed.split(|&b| b == 0) {
        let Some((key, value)) = std::str::from_utf8(entry).ok().and_then(|e| e.split_once('\n')) else {
            continue;
        };
        let fits = !value.is_empty() && value.len() <= 1024 && !value.contains(char::is_control);
        let value = fits.then(|| value.to_owned());
        match key {
            "user.name" => name = value,
            "user.email" => email = value,
            _ => {}
        }
    }
    (name, email)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_values_are_absent() {
        let printed = b"user.name\nFirst\0user.name\nAnn \xc3\x96\0user.email\na\n[core]\n\tx = y\0";
        assert_eq!(parse(printed), (Some("Ann Ö".to_owned()), None));
        assert_eq!(parse(b""), (None, None));
    }
}
