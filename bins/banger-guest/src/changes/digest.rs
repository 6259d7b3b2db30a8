//! The id that git gives to the bytes of a file (gitformat-loose(5)).

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The id of an object, in the making.
pub enum Id {
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Id {
    /// Of a file of `size` bytes.
    pub fn of_blob(sha256: bool, size: u64) -> Self {
        let mut id = if sha256 { Self::Sha256(Sha256::new()) } else { Self::Sha1(Sha1::new()) };
        id.update(format!("blob {size}\0").as_bytes());
        id
    }

    /// Takes more of it.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
        }
    }

    /// The id.
    pub fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(digest) => digest.finalize().to_vec(),
            Self::Sha256(digest) => digest.finalize().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_gits() {
        let hex = |id: Vec<u8>| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let of = |sha256| {
            let mut id = Id::of_blob(sha256, 3);
            id.update(b"hi\n");
            hex(id.finish())
        };
        // What `git hash-object` says in a repository of each kind.
        assert_eq!(of(false), "45b983be36b73c0788dc9cbcb76cbb80fc7bb057");
        assert_eq!(of(true), "96c18f0297e38d01f4b2dacddea4259aea6b2961eb0822bd2c0c3f6029030045");
    }
}
