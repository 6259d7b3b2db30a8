//! Random packets: whatever comes, an answer is one that an independent reader (hickory-proto's own) understands.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::question::{HEADER, Question};
use super::reply::{Verdict, reply, truncated};
use super::upstream;
use super::zone::Zone;
use banger_contract::names::{NamedVm, Names};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 7, 1);
const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 213, 7, 2));

fn zone() -> Zone {
    let vm = |name: &str, addresses: &[&str], forward| NamedVm {
        name: name.parse().unwrap(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        forward,
    };
    let items = vec![
        vm("dev2", &["10.213.7.2", "fd00::2"], true),
        vm("dev3", &["10.213.7.3"], false),
        vm("many", &["10.213.7.9"; 40], true),
        vm("none", &[], true),
    ];
    let names = Names::new("0a1b2c3d".parse().unwrap(), items);
    Zone::new(&names, GATEWAY, "10.213.7.0/24".parse().unwrap())
}

fn asked(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// What an answer must be, whatever was asked.
fn check(packet: &[u8], out: &[u8]) {
    let answer = Message::from_vec(out).unwrap_or_else(|e| panic!("{e}: {out:?} to {packet:?}"));
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert_eq!(answer.metadata.id, u16::from_be_bytes([packet[0], packet[1]]));
    assert!(out.len() <= 512, "{} bytes to {packet:?}", out.len());
    assert!(!answer.metadata.authentic_data);
    if !answer.queries.is_empty() {
        let question = Question::read(packet).expect("what can be read is repeated");
        assert_eq!(out[HEADER..question.head.len()], question.head[HEADER..]);
        assert_eq!(answer.edns.is_some(), question.edns.is_some());
    }
}

fn answer_to(packet: &[u8], client: IpAddr) -> Option<Message> {
    let mut out = Vec::new();
    match reply(&zone(), client, packet, &mut out) {
        Verdict::Answered => {
            check(packet, &out);
            Some(Message::from_vec(&out).unwrap())
        }
        Verdict::Ignore | Verdict::Forward(_) => None,
    }
}

#[test]
fn answers_hold_what_the_zone_has() {
    let records = |name: &str, kind| answer_to(&asked(name, kind), GUEST).expect("an answer").answers;
    assert_eq!(records("dev2.vm.", RecordType::A)[0].data, RData::A("10.213.7.2".parse().unwrap()));
    assert_eq!(records("DEV2.vM.", RecordType::AAAA)[0].data, RData::AAAA("fd00::2".parse().unwrap()));
    assert_eq!(records("dev2.vm.", RecordType::ANY).len(), 2);
    assert_eq!(records("many.vm.", RecordType::A).len(), 8, "as many as fit");
    assert_eq!(records("none.vm.", RecordType::A).len(), 0);
    let name = &records("3.7.213.10.in-addr.arpa.", RecordType::PTR)[0].data;
    assert_eq!(name.to_string(), "dev3.vm.");
    let soa = answer_to(&asked("nobody.vm.", RecordType::A), GUEST).expect("an answer").authorities;
    assert_eq!((soa[0].name.to_ascii().as_str(), soa[0].ttl), ("vm.", 5));
}

#[test]
fn who_is_passed_on_and_who_is_not() {
    let forwarded = |client: [u8; 4], packet: &[u8]| {
        matches!(reply(&zone(), IpAddr::from(client), packet, &mut Vec::new()), Verdict::Forward(_))
    };
    let other = asked("www.example.org.", RecordType::A);
    assert!(forwarded([10, 213, 7, 2], &other) && forwarded([10, 213, 7, 200], &other));
    for confined in [[10, 213, 7, 3], [10, 213, 7, 1], [127, 0, 0, 1], [192, 0, 2, 1]] {
        assert!(!forwarded(confined, &other), "{confined:?}");
    }
    assert!(!forwarded([10, 213, 7, 2], &asked("x.vm.", RecordType::A)), "it is nobody else's business");
    assert!(answer_to(&other, "192.0.2.1".parse().unwrap()).is_none());
    let mut quiet = other;
    quiet[2] &= !1;
    assert!(!forwarded([10, 213, 7, 2], &quiet), "without RD nobody is asked");
}

/// A packet that is almost right: names, kinds, counts, tails and EDNS as they come.
fn almost() -> impl Strategy<Value = Vec<u8>> {
    let label = prop_oneof![
        3 => Just(b"dev2".to_vec()),
        3 => Just(b"VM".to_vec()),
        1 => Just(b"7".to_vec()),
        1 => Just(b"in-addr".to_vec()),
        1 => Just(b"arpa".to_vec()),
        2 => prop::collection::vec(any::<u8>(), 0..70),
    ];
    let header = (any::<[u8; 4]>(), prop::collection::vec(prop_oneof![4 => 0_u16..2, 1 => any::<u16>()], 4));
    let kind = prop_oneof![4 => prop::sample::select(vec![1_u16, 6, 12, 28, 255]), 1 => any::<u16>()];
    let tail = prop_oneof![
        3 => Just(Vec::new()),
        2 => prop::collection::vec(any::<u8>(), 0..40),
        3 => (any::<[u8; 6]>(), prop::collection::vec(any::<u8>(), 0..30)).prop_map(|(fixed, data)| {
            let mut opt = vec![0, 0, 41];
            opt.extend(fixed);
            opt.extend((data.len() as u16).to_be_bytes());
            opt.extend(data);
            opt
        }),
    ];
    let class = prop_oneof![5 => Just(1_u16), 1 => any::<u16>()];
    (header, prop::collection::vec(label, 0..8), kind, class, tail).prop_map(
        |((head, counts), labels, kind, class, tail)| {
            let mut packet = head.to_vec();
            // Most are plain queries, or nothing behind the header would ever be read.
            if head[0] & 3 != 0 {
                packet[2] &= 1;
                packet.extend([0, 1, 0, 0, 0, 0, 0, u8::from(!tail.is_empty())]);
            } else {
                packet.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
            }
            for label in labels {
                packet.push(label.len() as u8);
                packet.extend(label);
            }
            packet.push(0);
            packet.extend(kind.to_be_bytes());
            packet.extend(class.to_be_bytes());
            packet.extend(tail);
            packet
        },
    )
}

/// The same cases each time, but where `PROPTEST_RNG_SEED` says others.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    let rng_seed = match usual.rng_seed {
        RngSeed::Random => RngSeed::Fixed(0),
        wanted => wanted,
    };
    ProptestConfig { cases: 4000, failure_persistence: None, rng_seed, ..usual }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_packets_are_answered_well_or_not_at_all(
        packet in prop_oneof![
            1 => prop::collection::vec(any::<u8>(), 0..600),
            6 => almost(),
        ],
        cut in prop::option::weighted(0.2, 0_usize..80),
        from in prop::sample::select(vec![[10, 213, 7, 2], [10, 213, 7, 3], [127, 0, 0, 1], [8, 8, 8, 8]]),
    ) {
        let packet = &packet[..cut.unwrap_or(packet.len()).min(packet.len())];
        let mut out = vec![7; 9];
        match reply(&zone(), IpAddr::from(from), packet, &mut out) {
            Verdict::Answered => {
                prop_assert!(from != [8, 8, 8, 8]);
                check(packet, &out);
            }
            Verdict::Ignore => prop_assert!(out.is_empty()),
            Verdict::Forward(question) => {
                prop_assert!(from == [10, 213, 7, 2] && packet[2] & 0xf9 == 1);
                // What is passed on is a question that others understand, and ours is not among them.
                let message = Message::from_vec(packet).expect("others can read it");
                prop_assert_eq!(message.metadata.op_code, OpCode::Query);
                prop_assert!(!question.name.to_lowercase().to_ascii().ends_with(".vm."));
                truncated(&question, &mut out);
                check(packet, &out);
            }
        }
    }

    #[test]
    fn an_upstreams_answer_is_believed_only_where_it_fits(
        answer in prop::collection::vec(any::<u8>(), 0..60),
        flip in 0_usize..33,
    ) {
        let sent = asked("www.example.org.", RecordType::A);
        prop_assert!(!upstream::answers(&sent, sent.len(), &answer));
        let mut right = sent.clone();
        right[2] |= 0x80;
        prop_assert!(upstream::answers(&sent, sent.len(), &right));
        // Flags and the counts of what follows may be anything; nothing else may.
        if !matches!(flip, 2 | 3 | 6..=11) {
            right[flip] ^= 1;
            prop_assert!(!upstream::answers(&sent, sent.len(), &right));
        }
    }
}
