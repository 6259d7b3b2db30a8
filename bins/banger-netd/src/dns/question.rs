//! Taking a packet apart: is it a question that can be answered, and what is asked?

use hickory_proto::op::{Message, OpCode, Query};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// The length of a header (RFC 1035, 4.1.1).
pub const HEADER: usize = 12;

/// What a response is never longer than over UDP without EDNS (RFC 1035, 2.3.4).
const UDP_LIMIT: usize = 512;

/// Why a packet gets no answer but a code, or none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It is too short to be answered, or an answer itself: answering those makes two servers talk for ever.
    Silence,
    /// FORMERR: it cannot be read.
    Malformed,
    /// NOTIMP: another operation than a query.
    Operation,
    /// BADVERS: a version of EDNS that nobody knows yet.
    EdnsVersion,
}

/// The sender's EDNS (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Whether DNSSEC records are wanted.
    pub dnssec_ok: bool,
    /// How long an answer the sender takes over UDP, bytes.
    pub payload: usize,
}

/// A question that can be answered.
#[derive(Debug)]
pub struct Question<'p> {
    /// The packet's first bytes: the header and the one question, exactly as they came.
    pub head: &'p [u8],
    /// Which name.
    pub name: Name,
    /// Which records.
    pub kind: RecordType,
    /// Of which class.
    pub class: DNSClass,
    /// What the sender says about itself.
    pub edns: Option<Edns>,
}

impl<'p> Question<'p> {
    /// Reads a packet: one question, at most an OPT record behind it, and nothing else.
    ///
    /// # Errors
    /// How it is to be answered instead.
    pub fn read(packet: &'p [u8]) -> Result<Self, Unfit> {
        let header = packet.get(..HEADER).ok_or(Unfit::Silence)?;
        if header[2] & 0x80 != 0 {
            return Err(Unfit::Silence);
        }
        if header[2] & 0x78 != 0 {
            return Err(Unfit::Operation);
        }
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        // Counts are believed only where they are small: they are the sender's.
        let additional = count(10);
        if count(4) != 1 || count(6) != 0 || count(8) != 0 || additional > 1 {
            return Err(Unfit::Malformed);
        }
        let mut decoder = BinDecoder::new(packet);
        decoder.read_slice(HEADER).map_err(|_| Unfit::Malformed)?;
        let query = Query::read(&mut decoder).map_err(|_| Unfit::Malformed)?;
        let end = decoder.index();
        // A name that points elsewhere has a shorter form in the packet than by itself. No client compresses its question.
        if end - HEADER != wire_length(&query.name) + 4 {
            return Err(Unfit::Malformed);
        }
        let edns = if additional == 1 { Some(read_edns(&mut decoder)?) } else { None };
        if !decoder.is_empty() {
            return Err(Unfit::Malformed);
        }
        let (head, kind, class) = (&packet[..end], query.query_type, query.query_class);
        Ok(Self { head, name: query.name, kind, class, edns })
    }

    /// Whether the sender wants others to be asked (RD).
    pub fn recursion_desired(&self) -> bool {
        self.head[2] & 1 != 0
    }

    /// How long an answer over UDP may be.
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(UDP_LIMIT, |edns| edns.payload.max(UDP_LIMIT))
    }
}

/// How long the name is in a packet, uncompressed: its labels with a length each, and the root's.
pub fn wire_length(name: &Name) -> usize {
    name.iter().map(|label| label.len() + 1).sum::<usize>() + 1
}

fn read_edns(decoder: &mut BinDecoder<'_>) -> Result<Edns, Unfit> {
    let (_, edns, _) =
        Message::read_records(decoder, 1, true, OpCode::Query).map_err(|_| Unfit::Malformed)?;
    let edns = edns.ok_or(Unfit::Malformed)?;
    if edns.version() > 0 {
        return Err(Unfit::EdnsVersion);
    }
    Ok(Edns { dnssec_ok: edns.flags().dnssec_ok, payload: edns.max_payload().into() })
}
