//! Writing an answer. What is written is ours, so it is put together byte by byte: the question as it came, whatever its
//! case (some clients check it), and records behind it whose names point into it.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::{DNSClass, Name, RecordType};

use super::question::{Edns, HEADER, Question, Unfit, wire_length};
use super::zone::{TOP, Zone};

/// How long others may remember an answer, seconds. VMs come and go.
pub const TTL_S: u32 = 5;

/// What this resolver itself takes over UDP, bytes (dnsflagday.net/2020).
const OWN_PAYLOAD: u16 = 1232;

/// Response codes (RFC 1035, RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    /// Answered, possibly with no record.
    NoError = 0,
    /// The packet cannot be read.
    FormErr = 1,
    /// Others were asked in vain.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// Not something that this server does.
    NotImp = 4,
    /// Not for this client, or not here.
    Refused = 5,
    /// An EDNS version that is not spoken.
    BadVers = 16,
}

/// What is to become of a packet.
#[derive(Debug)]
pub enum Verdict<'p> {
    /// Nothing.
    Ignore,
    /// The answer is in the buffer.
    Answered,
    /// Others know.
    Forward(Question<'p>),
}

/// Answers `packet` from `client` into `out`, which is emptied first. This knows nobody outside: what is asked of others is
/// for the caller to pass on.
pub fn reply<'p>(zone: &Zone, client: IpAddr, packet: &'p [u8], out: &mut Vec<u8>) -> Verdict<'p> {
    out.clear();
    if !zone.is_client(client) {
        return Verdict::Ignore;
    }
    let question = match Question::read(packet) {
        Ok(question) => question,
        Err(Unfit::Silence) => return Verdict::Ignore,
        Err(unfit) => {
            refuse_unread(unfit, packet, out);
            return Verdict::Answered;
        }
    };
    if let Some(code) = refused_kind(&question) {
        plain(&question, code, out);
        return Verdict::Answered;
    }
    if is_ours(&question.name) {
        by_name(zone, &question, out);
    } else if let Some(address) = reverse_of(&question.name, zone) {
        by_address(zone, &question, address, out);
    } else if !question.recursion_desired() || !zone.may_forward(client) {
        plain(&question, Code::Refused, out);
    } else {
        return Verdict::Forward(question);
    }
    Verdict::Answered
}

/// Answers without records, with `code`.
pub fn plain(question: &Question<'_>, code: Code, out: &mut Vec<u8>) {
    Reply::begin(question, code, false, out).finish();
}

/// The answer to a packet over UDP that others answered at too great a length: none, and TC, so that the client asks over TCP.
pub fn truncated(question: &Question<'_>, out: &mut Vec<u8>) {
    Reply::begin(question, Code::NoError, false, out).finish();
    out[2] |= 0x02;
}

/// Only the header comes back of what could not be read.
fn refuse_unread(unfit: Unfit, packet: &[u8], out: &mut Vec<u8>) {
    let code = match unfit {
        Unfit::Operation => Code::NotImp,
        Unfit::EdnsVersion => Code::BadVers,
        Unfit::Malformed | Unfit::Silence => Code::FormErr,
    };
    // Operation and RD as they came.
    out.extend([packet[0], packet[1], 0x80 | packet[2] & 0x79, code as u8 & 15]);
    out.extend([0; 8]);
    if code == Code::BadVers {
        put_opt(Edns { dnssec_ok: false, payload: 0 }, code, out);
    }
}

/// Classes and kinds of records that this server has nothing to do with, whatever the name.
fn refused_kind(question: &Question<'_>) -> Option<Code> {
    if question.class != DNSClass::IN {
        return Some(Code::Refused);
    }
    // 128 to 255 are not records, but what is to be done (RFC 6895, 3.1); ANY is the one that is answered.
    match u16::from(question.kind) {
        41 | 250 => Some(Code::FormErr),
        249 | 251 | 252 => Some(Code::Refused),
        255 => None,
        128..255 => Some(Code::NotImp),
        _ => None,
    }
}

fn is_ours(name: &Name) -> bool {
    name.iter().next_back().is_some_and(|label| label.eq_ignore_ascii_case(TOP))
}

/// The address in our subnet that the name in in-addr.arpa stands for, or lies below.
fn reverse_of(name: &Name, zone: &Zone) -> Option<Ipv4Addr> {
    let mut labels = name.iter().rev();
    let is = |label: Option<&[u8]>, text: &[u8]| label.is_some_and(|l| l.eq_ignore_ascii_case(text));
    if !is(labels.next(), b"arpa") || !is(labels.next(), b"in-addr") {
        return None;
    }
    let mut octets = [0; 4];
    for octet in &mut octets {
        let label = std::str::from_utf8(labels.next()?).ok()?;
        *octet = label.parse().ok()?;
        // 007 and +7 are other names.
        if octet.to_string() != label {
            return None;
        }
    }
    let address = Ipv4Addr::from(octets);
    zone.subnet().contains(address).then_some(address)
}

fn by_name(zone: &Zone, question: &Question<'_>, out: &mut Vec<u8>) {
    let top = question.name.iter().len() == 1;
    let label = question.name.iter().next().unwrap_or_default();
    let addresses = match question.name.iter().len() {
        1 => Some(&[][..]),
        2 => zone.addresses(label),
        _ => None,
    };
    // Where the last label, "vm", begins in the question.
    let apex = HEADER + wire_length(&question.name) - TOP.len() - 2;
    let Some(addresses) = addresses else {
        return Reply::begin(question, Code::NxDomain, true, out).authority(apex);
    };
    let mut reply = Reply::begin(question, Code::NoError, true, out);
    let wants = |kind| question.kind == kind || question.kind == RecordType::ANY;
    if top && wants(RecordType::SOA) {
        reply.soa(apex);
    }
    for address in addresses {
        match address {
            IpAddr::V4(v4) if wants(RecordType::A) => reply.record(HEADER, 1, &v4.octets()),
            IpAddr::V6(v6) if wants(RecordType::AAAA) => reply.record(HEADER, 28, &v6.octets()),
            _ => {}
        }
    }
    if reply.answers == 0 { reply.authority(apex) } else { reply.finish() }
}

fn by_address(zone: &Zone, question: &Question<'_>, address: Ipv4Addr, out: &mut Vec<u8>) {
    let below = question.name.iter().len() - 6;
    let first: usize = question.name.iter().take(below + 1).map(|label| label.len() + 1).sum();
    // The zone of the last octet's parent; a pointer reaches 14 bits, a name has 8.
    let apex = HEADER + first;
    let label = zone.name_of(address).filter(|_| below == 0);
    let Some(label) = label else {
        return Reply::begin(question, Code::NxDomain, true, out).authority(apex);
    };
    let mut reply = Reply::begin(question, Code::NoError, true, out);
    if matches!(question.kind, RecordType::PTR | RecordType::ANY) {
        let mut name = Vec::with_capacity(label.len() + 5);
        name.push(label.len() as u8);
        name.extend(label);
        name.push(TOP.len() as u8);
        name.extend(TOP);
        name.push(0);
        reply.record(HEADER, 12, &name);
        reply.finish();
    } else {
        reply.authority(apex);
    }
}

/// An answer in the making.
struct Reply<'o> {
    out: &'o mut Vec<u8>,
    edns: Option<Edns>,
    code: Code,
    answers: u16,
}

impl<'o> Reply<'o> {
    /// Header and question.
    fn begin(question: &Question<'_>, code: Code, ours: bool, out: &'o mut Vec<u8>) -> Self {
        out.clear();
        out.extend(question.head);
        // QR, AA, RD as it came; RA, CD as it came, the code.
        out[2] = 0x80 | u8::from(ours) << 2 | out[2] & 0x01;
        out[3] = 0x80 | out[3] & 0x10 | code as u8 & 15;
        out[10..HEADER].fill(0);
        Self { out, edns: question.edns, code, answers: 0 }
    }

    /// One record of the answer, whose name stands at `name` in the packet.
    fn record(&mut self, name: usize, kind: u16, data: &[u8]) {
        self.answers += 1;
        self.put(name, kind, data);
    }

    fn put(&mut self, name: usize, kind: u16, data: &[u8]) {
        self.out.extend((0xc000 | name as u16).to_be_bytes());
        self.out.extend(kind.to_be_bytes());
        self.out.extend([0, 1]);
        self.out.extend(TTL_S.to_be_bytes());
        self.out.extend((data.len() as u16).to_be_bytes());
        self.out.extend(data);
    }

    fn put_soa(&mut self, apex: usize) {
        // Server and mailbox are none (RFC 2606), then serial, refresh, retry, expire, and how long "no" may be remembered.
        let mut data = b"\x09localhost\x00\x06nobody\x07invalid\x00".to_vec();
        for number in [1, 3600, 600, 86400, TTL_S] {
            data.extend(u32::to_be_bytes(number));
        }
        self.put(apex, 6, &data);
    }

    /// The zone's own record as the answer.
    fn soa(&mut self, apex: usize) {
        self.answers += 1;
        self.put_soa(apex);
    }

    /// Ends an answer that is "no", with the zone's own record, which says for how long (RFC 2308).
    fn authority(mut self, apex: usize) {
        self.put_soa(apex);
        self.out[9] = 1;
        self.finish();
    }

    fn finish(self) {
        self.out[6..8].copy_from_slice(&self.answers.to_be_bytes());
        if let Some(edns) = self.edns {
            put_opt(edns, self.code, self.out);
        }
    }
}

/// The OPT record of an answer (RFC 6891, 6.1).
fn put_opt(edns: Edns, code: Code, out: &mut Vec<u8>) {
    let [high, low] = OWN_PAYLOAD.to_be_bytes();
    out.extend([0, 0, 41, high, low, (code as u16 >> 4) as u8, 0]);
    out.extend([u8::from(edns.dnssec_ok) << 7, 0, 0, 0]);
    out[11] = 1;
}
