//! Device-mapper: its control device and ioctls (linux/dm-ioctl.h, Documentation/admin-guide/device-mapper/). Only ioctls: no
//! dmsetup, no udev.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use thiserror::Error;

/// The control device. Opening it loads the module.
pub const CONTROL: &str = "/dev/mapper/control";
/// struct dm_ioctl's size, and the largest answer that is taken.
const HEADER: usize = 312;
const BUFFER: usize = 256 << 10;
const READ_ONLY: u32 = 1;
const STATUS_TABLE: u32 = 1 << 4;
const BUFFER_FULL: u32 = 1 << 8;
/// The longest name and UUID, their NUL included.
const NAME_LEN: usize = 128;
const UUID_LEN: usize = 129;

const VERSION: u8 = 0;
const LIST_DEVICES: u8 = 2;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const DEV_STATUS: u8 = 7;
const TABLE_LOAD: u8 = 9;
const TABLE_STATUS: u8 = 12;

/// A device-mapper call that failed.
#[derive(Debug, Error)]
#[error("device-mapper cannot {action} {device:?}")]
pub struct DmError {
    /// What was tried.
    pub action: &'static str,
    /// The device's name.
    pub device: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// One line of a table: a range of sectors, 512 bytes each, and what it maps to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The first sector.
    pub start: u64,
    /// How many.
    pub sectors: u64,
    /// `linear`, `snapshot`, `zero`…
    pub kind: &'static str,
    /// What the target wants to know.
    pub parameters: String,
}

/// A device as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its UUID.
    pub uuid: String,
    /// Its device number.
    pub number: u64,
    /// How many have it open.
    pub open_count: i32,
    /// Whether it has a table that is in use.
    pub live: bool,
}

/// The open control device.
#[derive(Debug)]
pub struct Control {
    file: File,
}

impl Control {
    /// Opens it.
    ///
    /// # Errors
    /// There is no device-mapper in this kernel, or no privilege.
    pub fn open() -> Result<Self, DmError> {
        let open = OpenOptions::new().read(true).write(true).open(CONTROL);
        let file = open.map_err(|source| DmError { action: "open", device: CONTROL.into(), source })?;
        let control = Self { file };
        control.call(VERSION, "talk to", Request::new(""))?;
        Ok(control)
    }

    /// Makes the device `name`, empty.
    ///
    /// # Errors
    /// It is there, no privilege, or as ioctl(2).
    pub fn create(&self, name: &str, uuid: &str) -> Result<(), DmError> {
        self.call(DEV_CREATE, "create", Request { uuid, ..Request::new(name) }).map(drop)
    }

    /// Gives the device its table and puts it into use.
    ///
    /// # Errors
    /// The kernel refuses the table, or as ioctl(2).
    pub fn load(&self, name: &str, table: &[Target], read_only: bool) -> Result<(), DmError> {
        let flags = if read_only { READ_ONLY } else { 0 };
        let data: Vec<u8> = table.iter().flat_map(encoded).collect();
        let count = table.len() as u32;
        self.call(
            TABLE_LOAD,
            "load the table of",
            Request { flags, count, data: &data, ..Request::new(name) },
        )?;
        self.call(DEV_SUSPEND, "resume", Request { flags, ..Request::new(name) }).map(drop)
    }

    /// Removes the device; one that is not there is no error: whether it was.
    ///
    /// # Errors
    /// Somebody has it open (EBUSY), or as ioctl(2).
    pub fn remove(&self, name: &str) -> Result<bool, DmError> {
        match self.call(DEV_REMOVE, "remove", Request::new(name)) {
            Ok(_) => Ok(true),
            Err(error) if error.source.raw_os_error() == Some(libc::ENXIO) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The device `name`; `None` where there is none.
    ///
    /// # Errors
    /// As ioctl(2).
    pub fn state(&self, name: &str) -> Result<Option<State>, DmError> {
        match self.call(DEV_STATUS, "look at", Request::new(name)) {
            Ok(answer) => Ok(Some(answer.state())),
            Err(error) if error.source.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The targets of the device `name` with the status that each gives of itself, or with their parameters (`table`).
    ///
    /// # Errors
    /// As ioctl(2).
    pub fn targets(&self, name: &str, table: bool) -> Result<Vec<(String, String)>, DmError> {
        let flags = if table { STATUS_TABLE } else { 0 };
        Ok(self.call(TABLE_STATUS, "look at", Request { flags, ..Request::new(name) })?.targets())
    }

    /// How long the device `name` is, in sectors of 512 bytes.
    ///
    /// # Errors
    /// As ioctl(2).
    pub fn sectors(&self, name: &str) -> Result<u64, DmError> {
        let answer = self.call(TABLE_STATUS, "look at", Request::new(name))?;
        Ok(answer.lengths().into_iter().sum())
    }

    /// The names of all devices.
    ///
    /// # Errors
    /// As ioctl(2).
    pub fn names(&self) -> Result<Vec<String>, DmError> {
        Ok(self.call(LIST_DEVICES, "list", Request::new(""))?.names())
    }

    fn call(&self, number: u8, action: &'static str, request: Request<'_>) -> Result<Answer, DmError> {
        let error = |source| DmError { action, device: request.name.to_owned(), source };
        let mut buffer = request.encode().map_err(error)?;
        // _IOWR(0xfd, number, struct dm_ioctl)
        let code: libc::c_ulong =
            3 << 30 | (HEADER as libc::c_ulong) << 16 | 0xfd << 8 | libc::c_ulong::from(number);
        // SAFETY: the kernel reads and writes as many bytes of the buffer as its field data_size says, which is its length.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), code as _, buffer.as_mut_ptr()) };
        if result < 0 {
            return Err(error(io::Error::last_os_error()));
        }
        let answer = Answer { buffer };
        if answer.u32(28) & BUFFER_FULL != 0 {
            return Err(error(io::ErrorKind::FileTooLarge.into()));
        }
        Ok(answer)
    }
}

struct Request<'a> {
    name: &'a str,
    uuid: &'a str,
    flags: u32,
    count: u32,
    data: &'a [u8],
}

impl<'a> Request<'a> {
    fn new(name: &'a str) -> Self {
        Self { name, uuid: "", flags: 0, count: 0, data: &[] }
    }

    /// struct dm_ioctl and what follows it.
    fn encode(&self) -> io::Result<Vec<u8>> {
        if self.name.len() >= NAME_LEN || self.uuid.len() >= UUID_LEN || self.data.len() > BUFFER - HEADER {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut buffer = vec![0; BUFFER];
        let mut put = |at: usize, bytes: &[u8]| buffer[at..at + bytes.len()].copy_from_slice(bytes);
        for (at, number) in
            [(0, 4_u32), (12, BUFFER as u32), (16, HEADER as u32), (20, self.count), (28, self.flags)]
        {
            put(at, &number.to_ne_bytes());
        }
        put(48, self.name.as_bytes());
        put(48 + NAME_LEN, self.uuid.as_bytes());
        put(HEADER, self.data);
        Ok(buffer)
    }
}

/// struct dm_target_spec and its parameters, up to the next multiple of eight bytes.
fn encoded(target: &Target) -> Vec<u8> {
    let length = (40 + target.parameters.len() + 1).next_multiple_of(8);
    let mut bytes = vec![0; length];
    bytes[..8].copy_from_slice(&target.start.to_ne_bytes());
    bytes[8..16].copy_from_slice(&target.sectors.to_ne_bytes());
    bytes[20..24].copy_from_slice(&(length as u32).to_ne_bytes());
    bytes[24..24 + target.kind.len()].copy_from_slice(target.kind.as_bytes());
    bytes[40..40 + target.parameters.len()].copy_from_slice(target.parameters.as_bytes());
    bytes
}

struct Answer {
    buffer: Vec<u8>,
}

impl Answer {
    fn u32(&self, at: usize) -> u32 {
        let bytes = self.buffer.get(at..at + 4).and_then(|b| b.try_into().ok());
        u32::from_ne_bytes(bytes.unwrap_or_default())
    }

    fn u64(&self, at: usize) -> u64 {
        let bytes = self.buffer.get(at..at + 8).and_then(|b| b.try_into().ok());
        u64::from_ne_bytes(bytes.unwrap_or_default())
    }

    /// The text at `at`, up to its NUL.
    fn text(&self, at: usize) -> String {
        let rest = self.buffer.get(at..).unwrap_or_default();
        let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
        String::from_utf8_lossy(&rest[..end]).into_owned()
    }

    fn data(&self) -> usize {
        self.u32(16) as usize
    }

    fn state(&self) -> State {
        State {
            uuid: self.text(48 + NAME_LEN),
            number: self.u64(40),
            open_count: self.u32(24).cast_signed(),
            // DM_ACTIVE_PRESENT_FLAG
            live: self.u32(28) & (1 << 5) != 0,
        }
    }

    /// struct dm_target_spec with the text behind it, each with the offset of the next from the beginning of the data.
    fn targets(&self) -> Vec<(String, String)> {
        let (mut at, mut targets) = (self.data(), Vec::new());
        for _ in 0..self.u32(20) {
            targets.push((self.text(at + 24), self.text(at + 40)));
            at = self.data() + self.u32(at + 20) as usize;
        }
        targets
    }

    /// The lengths of the targets.
    fn lengths(&self) -> Vec<u64> {
        let (mut at, mut lengths) = (self.data(), Vec::new());
        for _ in 0..self.u32(20) {
            lengths.push(self.u64(at + 8));
            at = self.data() + self.u32(at + 20) as usize;
        }
        lengths
    }

    /// struct dm_name_list, each with the offset of the next from itself.
    fn names(&self) -> Vec<String> {
        let (mut at, mut names) = (self.data(), Vec::new());
        while self.u64(at) != 0 {
            names.push(self.text(at + 12));
            match self.u32(at + 8) as usize {
                0 => break,
                next => at += next,
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_laid_out_as_the_kernel_has_them() {
        let target = Target { start: 1, sectors: 2, kind: "linear", parameters: "7:0 0".into() };
        let data = encoded(&target);
        assert_eq!((data.len() % 8, data.len()), (0, 48));
        assert_eq!((&data[24..30], &data[40..46]), (&b"linear"[..], &b"7:0 0\0"[..]));
        let bytes = Request { uuid: "u", count: 1, data: &data, ..Request::new("n") }.encode().unwrap();
        assert_eq!(
            (bytes[48], bytes[48 + 128], &bytes[HEADER..HEADER + 8]),
            (b'n', b'u', &1_u64.to_ne_bytes()[..])
        );
        assert!(Request::new(&"n".repeat(128)).encode().is_err());
    }
}
