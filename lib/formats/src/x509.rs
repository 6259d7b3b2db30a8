//! What this program wants to know of a certificate: whether it is an authority's, whose it is, and the names it is found by.

use sha1::{Digest, Sha1};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::asn1::Any;
use x509_cert::der::{Decode, Encode, Tag, Tagged};
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::name::Name;

use banger_contract::error::escape_controls;
use banger_host::digest;

/// The longest subject that is told, characters.
const MAX_SUBJECT: usize = 300;

/// An authority's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Its subject, as RFC 4514 writes it, escaped.
    pub subject: String,
    /// The SHA-256 of [`Self::der`], hexadecimal.
    pub sha256: String,
    /// What OpenSSL calls its subject in a directory of certificates (`openssl x509 -subject_hash`).
    pub subject_hash: String,
    /// The certificate itself.
    pub der: Vec<u8>,
}

impl Authority {
    /// The authority whose certificate `der` is.
    ///
    /// # Errors
    /// It is none; says why.
    pub fn parse(der: &[u8]) -> Result<Self, &'static str> {
        let certificate = Certificate::from_der(der).map_err(|_| "it is not an X.509 certificate")?;
        if !is_authority(&certificate) {
            return Err("it is not that of an authority");
        }
        let subject = &certificate.tbs_certificate.subject;
        let shown: String = subject.to_string().chars().take(MAX_SUBJECT).collect();
        Ok(Self {
            subject: escape_controls(&shown),
            sha256: digest::sha256(der),
            subject_hash: subject_hash(subject).ok_or("its subject is not to be read")?,
            der: der.to_owned(),
        })
    }
}

/// Whether it may sign others. Certificates of version 1 cannot say so; there one that signs itself is one, as OpenSSL has it
/// (`X509_check_ca`).
fn is_authority(certificate: &Certificate) -> bool {
    let body = &certificate.tbs_certificate;
    match body.get::<BasicConstraints>() {
        Ok(Some((_, constraints))) => constraints.ca,
        Ok(None) => body.version == Version::V1 && body.issuer == body.subject,
        Err(_) => false,
    }
}

/// The first four bytes, least first, of the SHA-1 of the name in OpenSSL's canonical form (crypto/x509/x_name.c, `x509_name_canon`):
/// the sets without the sequence around them, strings in UTF-8 and lower case, with single blanks.
fn subject_hash(name: &Name) -> Option<String> {
    let mut canonical = Vec::new();
    for set in &name.0 {
        let mut members = Vec::new();
        for attribute in set.0.iter() {
            let mut pair = attribute.oid.to_der().ok()?;
            pair.extend(canonical_value(&attribute.value)?);
            members.push(tlv(0x30, &pair));
        }
        members.sort();
        canonical.extend(tlv(0x31, &members.concat()));
    }
    let hash = Sha1::digest(&canonical);
    Some(format!("{:08x}", u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]])))
}

fn canonical_value(value: &Any) -> Option<Vec<u8>> {
    let bytes = value.value();
    let text = match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::VisibleString => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        // Latin-1, as OpenSSL reads it.
        Tag::TeletexString => bytes.iter().copied().map(char::from).collect(),
        Tag::BmpString => {
            let units = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            String::from_utf16_lossy(&units.collect::<Vec<_>>())
        }
        // Others stay as they are.
        _ => return value.to_der().ok(),
    };
    let words: Vec<_> =
        text.split(|c: char| c.is_ascii_whitespace()).filter(|word| !word.is_empty()).collect();
    Some(tlv(0x0c, words.join(" ").to_ascii_lowercase().as_bytes()))
}

/// DER of one value.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut bytes = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => bytes.push(short),
        _ => {
            let digits: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            bytes.push(0x80 | digits.len() as u8);
            bytes.extend(digits);
        }
    }
    bytes.extend(content);
    bytes
}
