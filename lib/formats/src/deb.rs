//! A Debian package (deb(5)): an `ar` archive whose member `data.tar.*` holds the files.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// The most bytes that a package unpacks to; Debian's largest kernel has 0.4 GB.
const MAX_UNPACKED_BYTES: u64 = 8 << 30;

/// The most entries that are looked at; Debian's largest kernel has 4500.
const MAX_ENTRIES: usize = 200_000;

/// The longest name in the archive, bytes.
const MAX_NAME_BYTES: u64 = 4096;

/// How much memory xz may take, bytes: the dictionary of its highest level is half of it.
const XZ_MEMORY_BYTES: u64 = 128 << 20;

/// A package that cannot be unpacked.
#[derive(Debug, Error)]
pub enum DebError {
    /// It is none.
    #[error("it is not a Debian package")]
    NotDeb,
    /// It lacks its content.
    #[error("it has no member data.tar")]
    NoData,
    /// Its content is compressed with something else.
    #[error("its member {0:?} is compressed with an unknown program")]
    Compressor(String),
    /// A name leads elsewhere.
    #[error("its entry {0:?} has a name that leads out of it")]
    Name(String),
    /// It holds more than a kernel can.
    #[error("it holds more than {0}")]
    TooLarge(String),
    /// A signal came.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// A file of it cannot be written.
    #[error("cannot write {path:?}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Whether `file` begins as a package does.
pub fn is_deb(file: &mut File) -> io::Result<bool> {
    let mut magic = [0; 8];
    file.seek(SeekFrom::Start(0))?;
    match file.read_exact(&mut magic) {
        Ok(()) => Ok(&magic == b"!<arch>\n"),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Unpacks the regular files whose names, without a leading `./`, `wanted` says yes to, below the directory `into`, which is new.
/// No links are made and none are followed. Once `interrupted` names a signal it ends.
pub fn unpack(
    file: File,
    into: &Path,
    wanted: &dyn Fn(&str) -> bool,
    interrupted: &dyn Fn() -> Option<i32>,
) -> Result<(), DebError> {
    let mut budget = MAX_UNPACKED_BYTES;
    let mut archive = tar::Archive::new(data(file)?.take(MAX_UNPACKED_BYTES));
    // Raw, since the crate would read a long name of any length into memory.
    let entries = archive.entries().map_err(DebError::Read)?.raw(true);
    let mut long_name = None;
    for (number, entry) in entries.enumerate() {
        let mut entry = entry.map_err(DebError::Read)?;
        if number >= MAX_ENTRIES {
            return Err(DebError::TooLarge(format!("{MAX_ENTRIES} entries")));
        }
        if let Some(signal) = interrupted() {
            return Err(DebError::Interrupted(signal));
        }
        let kind = entry.header().entry_type();
        if kind.is_gnu_longname() {
            long_name = Some(name_in(&mut entry)?);
            continue;
        }
        let name = match long_name.take() {
            Some(name) => name,
            None => entry.path_bytes().into_owned(),
        };
        let Some(path) = relative(&name)?.filter(|path| kind.is_file() && wanted(path)) else { continue };
        let size = entry.header().size().map_err(DebError::Read)?;
        budget = budget
            .checked_sub(size)
            .ok_or_else(|| DebError::TooLarge(format!("{MAX_UNPACKED_BYTES} bytes")))?;
        write(&mut entry, &into.join(path), size)?;
    }
    Ok(())
}

/// The content of an entry that is another's name.
fn name_in(entry: &mut impl Read) -> Result<Vec<u8>, DebError> {
    let mut name = Vec::new();
    let read = entry.take(MAX_NAME_BYTES + 1).read_to_end(&mut name).map_err(DebError::Read)?;
    if read as u64 > MAX_NAME_BYTES {
        return Err(DebError::TooLarge(format!("{MAX_NAME_BYTES} bytes of a name")));
    }
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// The name without `./`; `None` for the root itself and for names that are not text, which no kernel has.
fn relative(name: &[u8]) -> Result<Option<String>, DebError> {
    let Ok(text) = std::str::from_utf8(name) else { return Ok(None) };
    let mut parts = Vec::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str().expect("a part of text is text")),
            Component::CurDir => {}
            _ => return Err(DebError::Name(text.chars().take(200).collect())),
        }
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

fn write(entry: &mut impl Read, path: &Path, size: u64) -> Result<(), DebError> {
    let error = |source| DebError::Write { path: path.to_owned(), source };
    let parent = path.parent().expect("it is below a directory");
    fs::create_dir_all(parent).map_err(error)?;
    let mut file = File::create_new(path).map_err(error)?;
    let written = io::copy(entry, &mut file).map_err(error)?;
    if written < size {
        return Err(DebError::Read(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}

/// The uncompressed tar in the member `data.tar.*`.
fn data(mut file: File) -> Result<Box<dyn Read>, DebError> {
    if !is_deb(&mut file).map_err(DebError::Read)? {
        return Err(DebError::NotDeb);
    }
    let mut file = BufReader::new(file);
    loop {
        let mut header = [0; 60];
        match file.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(DebError::NoData),
            Err(error) => return Err(DebError::Read(error)),
        }
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&header[range]).trim().trim_end_matches('/').to_owned()
        };
        let (name, size) = (text(0..16), text(48..58).parse::<u64>());
        let (Ok(size), b"`\n") = (size, &header[58..]) else { return Err(DebError::NotDeb) };
        if let Some(extension) = name.strip_prefix("data.tar") {
            return decompressed(extension, file.take(size), &name);
        }
        // Members begin at even places.
        let skip = i64::try_from(size.next_multiple_of(2)).map_err(|_| DebError::NotDeb)?;
        file.seek_relative(skip).map_err(DebError::Read)?;
    }
}

fn decompressed(extension: &str, data: impl Read + 'static, name: &str) -> Result<Box<dyn Read>, DebError> {
    Ok(match extension {
        "" => Box::new(data),
        ".gz" => Box::new(flate2::read::GzDecoder::new(data)),
        ".xz" => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_BYTES, 0);
            let stream = stream.map_err(|error| DebError::Read(error.into()))?;
            Box::new(liblzma::read::XzDecoder::new_stream(data, stream))
        }
        ".zst" => Box::new(zstd::Decoder::new(data).map_err(DebError::Read)?),
        ".bz2" => Box::new(bzip2::read::BzDecoder::new(data)),
        _ => return Err(DebError::Compressor(name.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn tar(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // By hand: the crate refuses the names that a hostile package has.
            let length = name.len().min(100);
            header.as_old_mut().name[..length].copy_from_slice(&name.as_bytes()[..length]);
            header.set_cksum();
            if name.len() > 100 {
                let mut long = tar::Header::new_gnu();
                long.set_entry_type(tar::EntryType::GNULongName);
                long.set_size(name.len() as u64 + 1);
                long.set_cksum();
                tar.append(&long, &[name.as_bytes(), b"\0"].concat()[..]).unwrap();
            }
            tar.append(&header, content.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn deb(member: &str, data: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"!<arch>\n").unwrap();
        for (name, content) in [("debian-binary", &b"2.0\n"[..]), ("control.tar", b"odd"), (member, data)] {
            writeln!(file, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, 100_644, content.len())
                .unwrap();
            file.write_all(content).unwrap();
            file.write_all(&b"\n"[..content.len() % 2]).unwrap();
        }
        file
    }

    fn unpacked(file: File) -> (tempfile::TempDir, Result<(), DebError>) {
        let into = tempfile::tempdir().unwrap();
        let result = unpack(file, into.path(), &|name| name.starts_with("boot/"), &|| None);
        (into, result)
    }

    #[test]
    fn wanted_files_come_out_whatever_the_compressor() {
        let long = format!("boot/{}", "long".repeat(40));
        let tar = tar(&[("./boot/vmlinuz-1", "kernel"), ("./etc/passwd", "no"), (&long, "x")]);
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
        xz.write_all(&tar).unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&tar).unwrap();
        let zst = zstd::encode_all(&tar[..], 1).unwrap();
        let members = [
            ("data.tar", tar),
            ("data.tar.xz/", xz.finish().unwrap()),
            ("data.tar.gz", gz.finish().unwrap()),
            ("data.tar.zst", zst),
        ];
        for (name, data) in members {
            let (into, result) = unpacked(deb(name, &data));
            result.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(fs::read(into.path().join("boot/vmlinuz-1")).unwrap(), b"kernel");
            assert_eq!(fs::read(into.path().join(&long)).unwrap(), b"x");
            assert!(!into.path().join("etc").exists());
            // Cut short it is an error, never a panic.
            assert!(unpacked(deb(name, &data[..data.len() / 3])).1.is_err(), "{name}");
        }
    }

    #[test]
    fn hostile_packages_are_refused() {
        for name in ["../boot/x", "/etc/x", "boot/../../x"] {
            let (_, result) = unpacked(deb("data.tar", &tar(&[(name, "x")])));
            assert!(matches!(result, Err(DebError::Name(_))), "{name}: {result:?}");
        }
        let twice = deb("data.tar", &tar(&[("boot/a", "x"), ("boot/a", "y")]));
        assert!(matches!(unpacked(twice).1, Err(DebError::Write { .. })));
        assert!(matches!(unpacked(deb("data.tar.lz", b"")).1, Err(DebError::Compressor(_))));
        assert!(matches!(unpacked(deb("other", b"")).1, Err(DebError::NoData)));
        assert!(matches!(unpacked(tempfile::tempfile().unwrap()).1, Err(DebError::NotDeb)));
        let mut huge = tar::Header::new_gnu();
        huge.set_path("boot/huge").unwrap();
        huge.set_size(u64::MAX >> 2);
        huge.set_cksum();
        assert!(matches!(unpacked(deb("data.tar", huge.as_bytes())).1, Err(DebError::TooLarge(_))));
        let mut name = tar::Header::new_gnu();
        name.set_entry_type(tar::EntryType::GNULongName);
        name.set_size(1 << 30);
        name.set_cksum();
        let long = [&name.as_bytes()[..], &[b'a'; 8192]].concat();
        assert!(matches!(unpacked(deb("data.tar", &long)).1, Err(DebError::TooLarge(_))));
    }
}
