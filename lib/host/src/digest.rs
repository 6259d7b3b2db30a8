//! SHA-256 of what is read, whoever reads it.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of `bytes`, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A reader that takes the digest of what passes through. Its clones are the same reader.
pub struct Digesting<R>(Arc<Mutex<State<R>>>);

struct State<R> {
    input: R,
    hash: Sha256,
    bytes: u64,
}

impl<R> Clone for Digesting<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Read> Digesting<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self(Arc::new(Mutex::new(State { input, hash: Sha256::new(), bytes: 0 })))
    }

    /// The digest of what was read, in hexadecimal, and the input. There must be no clones any more.
    pub fn into_parts(self) -> Option<(String, R)> {
        let state = Arc::into_inner(self.0)?.into_inner().unwrap_or_else(PoisonError::into_inner);
        Some((hex(&state.hash.finalize()), state.input))
    }

    /// Reads what is left, and gives the digest of everything in hexadecimal, and how much it was.
    ///
    /// # Errors
    /// The input's.
    pub fn finish(mut self) -> io::Result<(String, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((hex(&state.hash.clone().finalize()), state.bytes))
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = state.input.read(buffer)?;
        state.hash.update(&buffer[..count]);
        state.bytes += count as u64;
        Ok(count)
    }
}
