//! Byte counters of network interfaces (proc_pid_net_dev(5)): those of the caller's network namespace, which /sys may not show.

use std::fs;

/// What went through an interface, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// What the host received on it.
    pub received_bytes: u64,
    /// What the host sent on it.
    pub sent_bytes: u64,
}

/// Of the interface `name`; `None` where there is none.
pub fn counters(name: &str) -> Option<Counters> {
    parse(&fs::read_to_string("/proc/net/dev").ok()?, name)
}

fn parse(text: &str, name: &str) -> Option<Counters> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    Some(Counters { received_bytes: *numbers.first()?, sent_bytes: *numbers.get(8)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_found_by_its_whole_name() {
        let text = "Inter-|   Receive\n face |bytes\n  lo: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\nlo2: 5 6 0 0 0 0 0 0 7 8 0\n";
        assert_eq!(parse(text, "lo"), Some(Counters { received_bytes: 1, sent_bytes: 3 }));
        assert_eq!(parse(text, "lo2"), Some(Counters { received_bytes: 5, sent_bytes: 7 }));
        assert_eq!(parse(text, "l"), None);
        assert!(counters("lo").is_some());
    }
}
