//! What Firecracker counts. It tells on a pipe, once a minute and whenever it is asked to, what came since it last told; the
//! supervisor sums that up.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use banger_contract::inside::DiskIo;

/// The longest report that is taken, bytes. Firecracker's have about 20 KiB.
const MAX_REPORT: usize = 256 << 10;
/// How many disks are counted. A VM has three.
const MAX_DISKS: usize = 16;

/// The supervisor's answer to `GET /v1/counters`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Counted {
    /// By disk.
    pub disks: Vec<DiskIo>,
}

/// One member of a report: `block_<drive>` has these, everything else has others.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Member {
    Device(Device),
    Other(IgnoredAny),
}

#[derive(Debug, Deserialize)]
struct Device {
    read_bytes: u64,
    write_bytes: u64,
}

/// The sums, and where they come from.
#[derive(Debug)]
pub struct Counters {
    pipe: File,
    report: Vec<u8>,
    too_long: bool,
    disks: BTreeMap<String, DiskIo>,
}

impl Counters {
    /// Sums up what comes out of `pipe`, which must not block.
    pub fn new(pipe: OwnedFd) -> Self {
        Self { pipe: pipe.into(), report: Vec::new(), too_long: false, disks: BTreeMap::new() }
    }

    /// What to poll.
    pub fn watch(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.pipe.as_fd(), PollFlags::IN)
    }

    /// Reads what is there; `false` once nobody writes any more.
    pub fn pump(&mut self) -> bool {
        let mut chunk = [0; 16 << 10];
        // A pipe holds 64 KiB; what comes meanwhile is for the next time.
        for _ in 0..8 {
            match self.pipe.read(&mut chunk) {
                Ok(0) => return false,
                Ok(n) => self.take(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.too_long |= self.report.len() + piece.len() > MAX_REPORT;
            if self.too_long {
                self.report = Vec::new();
            } else {
                self.report.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") && !std::mem::take(&mut self.too_long) {
                let report = std::mem::take(&mut self.report);
                self.add(&report);
            }
        }
    }

    /// A report that makes no sense counts for nothing.
    fn add(&mut self, report: &[u8]) {
        let members: BTreeMap<String, Member> = serde_json::from_slice(report).unwrap_or_default();
        for (name, member) in members {
            let (Some(drive), Member::Device(device)) = (name.strip_prefix("block_"), member) else {
                continue;
            };
            if self.disks.len() >= MAX_DISKS && !self.disks.contains_key(drive) {
                continue;
            }
            let new = || DiskIo { drive: drive.to_owned(), read_bytes: 0, written_bytes: 0 };
            let sum = self.disks.entry(drive.to_owned()).or_insert_with(new);
            sum.read_bytes = sum.read_bytes.saturating_add(device.read_bytes);
            sum.written_bytes = sum.written_bytes.saturating_add(device.write_bytes);
        }
    }

    /// The sums.
    pub fn counted(&self) -> Counted {
        Counted { disks: self.disks.values().cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn reports_add_up_and_nonsense_counts_for_nothing() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut counters = Counters::new(read);
        let mut write = File::from(write);
        let mut tell = |text: &str, counters: &mut Counters| {
            for piece in text.as_bytes().chunks(32 << 10) {
                write.write_all(piece).unwrap();
                assert!(counters.pump());
            }
        };
        let report = r#"{"utc_timestamp_ms":1,"block":{"read_bytes":9,"write_bytes":9},"block_root":{"read_bytes":5,"write_bytes":1,"x":{}},"net_eth0":{"rx_bytes_count":3}}"#;
        tell(
            &format!("{report}\n{report}\nnonsense\n[1]\n{{\"block_work\":{{\"read_bytes\":-1}}}}\n"),
            &mut counters,
        );
        tell(&format!("{}\n", "y".repeat(MAX_REPORT + 1)), &mut counters);
        tell(&format!("{report}\n"), &mut counters);
        let disks = counters.counted().disks;
        assert_eq!(disks, [DiskIo { drive: "root".into(), read_bytes: 15, written_bytes: 3 }]);
        assert!(counters.report.capacity() <= 2 * MAX_REPORT);
    }
}
