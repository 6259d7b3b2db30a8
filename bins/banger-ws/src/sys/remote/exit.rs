//! How a remote command ended.

use std::fmt;

/// How a remote command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Status(u8),
    /// By this signal, without `SIG`.
    Signal(String),
}

impl Exit {
    /// The status that a shell would report: 128+n for a signal. OpenSSH names the 13 signals of RFC 4254 only; any other is
    /// `SIG@openssh.com`, and gives 128.
    pub fn shell_status(&self) -> u8 {
        match self {
            Self::Status(status) => *status,
            Self::Signal(name) => 128 + signal_number(name).unwrap_or(0),
        }
    }

    /// By signal `number`; `None` where Linux has no such signal.
    pub fn by_signal(number: u8) -> Option<Self> {
        let name = match number {
            1..=31 => SIGNALS[usize::from(number) - 1].to_owned(),
            // The C library keeps two of the real-time signals for itself.
            32..=33 => number.to_string(),
            34 => "RTMIN".to_owned(),
            35..=64 => format!("RTMIN+{}", number - 34),
            _ => return None,
        };
        Some(Self::Signal(name))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Signal(name) => write!(f, "signal {name}"),
        }
    }
}

/// signal(7), from 1 on: the numbers of x86, ARM and most others.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

fn signal_number(name: &str) -> Option<u8> {
    (1..=64).find(|number| matches!(Exit::by_signal(*number), Some(Exit::Signal(known)) if known == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_name_and_its_number_back() {
        for number in 1..=64 {
            assert_eq!(Exit::by_signal(number).unwrap().shell_status(), 128 + number);
        }
        assert_eq!(Exit::by_signal(11), Some(Exit::Signal("SEGV".into())));
        assert_eq!(Exit::by_signal(31), Some(Exit::Signal("SYS".into())));
        assert_eq!(Exit::by_signal(36), Some(Exit::Signal("RTMIN+2".into())));
        assert_eq!((Exit::by_signal(0), Exit::by_signal(65)), (None, None));
        assert_eq!(Exit::Signal("SIG@openssh.com".into()).shell_status(), 128);
    }
}
