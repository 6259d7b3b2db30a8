//! rtnetlink(7): requests, acknowledgements, dumps.
//!
//! Spoken directly rather than through `ip`: the handful of messages that [`super::link`] needs are small, the answer is an
//! errno (so "exists already" and "not permitted" are told apart without parsing text), and a whole attach costs
//! less than starting one `ip`. It also works in a network namespace whose /sys still shows another one.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use rustix::event::{PollFd, PollFlags};

use crate::net::linger::{self, Linger};
use crate::process::poll;

/// nlmsghdr: length, type, flags, sequence, port (netlink(7)).
const HEADER: usize = 16;

/// The kernel fills at most 32 KiB per dump message (NLMSG_GOODSIZE rules, linux/netlink.h).
const BUFFER: usize = 64 << 10;

/// How often a dump is begun again because the tables changed while it was read.
const DUMP_ATTEMPTS: usize = 8;

/// How long [`Netlink::request_until`] waits before it looks again: at first, and at last.
const SHORTEST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

/// linux/netfilter/nfnetlink.h
const BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
const BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;

const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
const NLM_F_DUMP_INTR: u16 = libc::NLM_F_DUMP_INTR as u16;

/// A request's body: a fixed header of the message's family, then attributes.
#[derive(Debug, Clone)]
pub struct Body(Vec<u8>);

impl Body {
    /// A body that begins with `header`.
    pub fn new(header: &[u8]) -> Self {
        let mut body = Self(header.to_vec());
        body.pad();
        body
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute. `value` is at most a few hundred bytes everywhere in this crate.
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("attributes here are short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.pad();
        self
    }

    /// Adds a NUL-terminated string.
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.attr(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds an attribute that holds attributes.
    pub fn nested(self, kind: u16, inner: impl FnOnce(Body) -> Body) -> Self {
        let inner = inner(Body(Vec::new()));
        self.attr(kind | libc::NLA_F_NESTED as u16, &inner.0)
    }
}

/// The attributes in `bytes`: kind and value. Ends at the first that does not fit.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & libc::NLA_TYPE_MASK as u16, value))
    })
}

/// A NUL-terminated string as an attribute holds it.
pub fn text_of(value: &[u8]) -> String {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A number as an attribute holds it.
pub fn u32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// A socket to the kernel's routing tables or to netfilter, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens the socket. Reading needs no privilege.
    ///
    /// # Errors
    /// As socket(2) and bind(2).
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Opens a socket to netfilter. What is there is shown to those with CAP_NET_ADMIN only.
    ///
    /// # Errors
    /// As socket(2) and bind(2).
    pub fn open_netfilter() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Opens a socket that becomes readable whenever a link comes, changes or goes. What it then holds is to be thrown away
    /// ([`Self::forget`]) and the links to be listed anew: events can be lost, a list cannot.
    ///
    /// # Errors
    /// As socket(2) and bind(2).
    pub fn watch_links() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, libc::RTMGRP_LINK as u32))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Throws away what a socket of [`Self::watch_links`] was told.
    pub fn forget(&self) {
        let mut buffer = [0; 4096];
        // ENOBUFS only says that there was more than fits.
        while !matches!(
            recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT),
            Err(nix::Error::EAGAIN | nix::Error::EBADF | nix::Error::ENOTSOCK)
        ) {}
    }

    fn send(&mut self, kind: u16, flags: i32, body: &Body) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + body.0.len());
        self.put(&mut message, kind, flags, body);
        send(self.fd.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Adds a request to what is to be sent, with a number of its own.
    fn put(&mut self, out: &mut Vec<u8>, kind: u16, flags: i32, body: &Body) {
        self.sequence += 1;
        let flags = flags as u16 | libc::NLM_F_REQUEST as u16;
        out.extend(((HEADER + body.0.len()) as u32).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(flags.to_ne_bytes());
        out.extend(self.sequence.to_ne_bytes());
        out.extend(0u32.to_ne_bytes());
        out.extend(&body.0);
    }

    /// Sends requests as one transaction of the nf_tables, all of which or none is done (nfnetlink_rcv_batch in
    /// net/netfilter/nfnetlink.c). Each is a kind, flags beside REQUEST, and a body.
    ///
    /// # Errors
    /// The errno of the first that the kernel refuses, or as send(2) and recv(2).
    pub fn transact(&mut self, requests: &[(u16, i32, Body)]) -> io::Result<()> {
        // struct nfgenmsg: family, version, and the subsystem in network order.
        let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
        let mark = Body::new(&[0, 0, high, low]);
        let (first, mut batch) = (self.sequence + 1, Vec::new());
        self.put(&mut batch, BATCH_BEGIN, 0, &mark);
        for (n, (kind, flags, body)) in requests.iter().enumerate() {
            let last = if n + 1 == requests.len() { libc::NLM_F_ACK } else { 0 };
            self.put(&mut batch, *kind, flags | last, body);
        }
        let last = self.sequence;
        self.put(&mut batch, BATCH_END, 0, &mark);
        send(self.fd.as_raw_fd(), &batch, MsgFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            for message in self.receive(&mut buffer, first..=self.sequence)? {
                // Refusals are told of every request, success only where it was asked for.
                if message.kind == NLMSG_ERROR {
                    acknowledged(message.payload)?;
                    if message.sequence == last {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Sends a request and waits for the kernel's acknowledgement. `flags` are those beside REQUEST and ACK.
    ///
    /// # Errors
    /// The errno with which the kernel refuses, or as send(2) and recv(2).
    pub fn request(&mut self, kind: u16, flags: i32, body: &Body) -> io::Result<()> {
        self.send(kind, flags | libc::NLM_F_ACK, body)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            for message in self.receive(&mut buffer, self.sequence..=self.sequence)? {
                if message.kind == NLMSG_ERROR {
                    return acknowledged(message.payload);
                }
            }
        }
    }

    /// As [`Self::request`], but waits only until `done` says that what is asked for has come about, and leaves the waiting for the
    /// acknowledgement to a process that stays behind. `held` stays open as long as that process does. The socket is one of its own:
    /// of two processes that read from the same one, either gets what is for the other.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::request`].
    pub fn request_until(
        (kind, flags, body): (u16, i32, &Body),
        held: &[BorrowedFd<'_>],
        mut done: impl FnMut(&Self) -> bool,
    ) -> io::Result<()> {
        let mut netlink = Self::open()?;
        let mut message = Vec::with_capacity(HEADER + body.0.len());
        netlink.put(&mut message, kind, flags | libc::NLM_F_ACK, body);
        let all: Vec<BorrowedFd<'_>> = held.iter().copied().chain([netlink.as_fd()]).collect();
        let Ok(behind) = linger::stay_behind(&all, Some((netlink.as_fd(), &message))) else {
            return netlink.request(kind, flags, body);
        };
        let mut pause = SHORTEST_PAUSE;
        while !done(&netlink) {
            let mut ready = [PollFd::new(&behind, PollFlags::IN)];
            if poll::wait(&mut ready, Some(Instant::now() + pause))? > 0 {
                return match netlink.answer_of(behind)? {
                    Some(answer) => answer,
                    // It was killed, perhaps before it could ask.
                    None => netlink.request(kind, flags, body),
                };
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }

    /// What the kernel told the process that stayed behind about the latest request.
    fn answer_of(&self, behind: Linger) -> io::Result<Option<io::Result<()>>> {
        let bytes = behind.answer()?;
        let message = Message::split(&bytes).map(|(message, _)| message);
        let about_ours = |m: &Message<'_>| m.kind == NLMSG_ERROR && m.sequence == self.sequence;
        Ok(message.filter(about_ours).map(|message| acknowledged(message.payload)))
    }

    /// Asks for a whole table and gives the payload of every message of it.
    ///
    /// # Errors
    /// The errno with which the kernel refuses, or as send(2) and recv(2).
    pub fn dump(&mut self, kind: u16, body: &Body) -> io::Result<Vec<Vec<u8>>> {
        for _ in 0..DUMP_ATTEMPTS {
            self.send(kind, libc::NLM_F_DUMP, body)?;
            if let Some(payloads) = self.collect()? {
                return Ok(payloads);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    /// The payloads up to the end of the dump; `None` where the table changed meanwhile.
    fn collect(&mut self) -> io::Result<Option<Vec<Vec<u8>>>> {
        let mut buffer = vec![0; BUFFER];
        let (mut payloads, mut whole) = (Vec::new(), true);
        loop {
            for message in self.receive(&mut buffer, self.sequence..=self.sequence)? {
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => return Ok(whole.then_some(payloads)),
                    NLMSG_ERROR => acknowledged(message.payload)?,
                    _ => payloads.push(message.payload.to_vec()),
                }
            }
        }
    }

    /// The messages of one datagram that answer the requests with these numbers.
    fn receive<'b>(
        &self,
        buffer: &'b mut [u8],
        requests: RangeInclusive<u32>,
    ) -> io::Result<Vec<Message<'b>>> {
        let length = loop {
            match recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => {}
                other => break other?,
            }
        };
        let mut rest = &buffer[..length];
        let mut messages = Vec::new();
        while let Some((message, after)) = Message::split(rest) {
            if requests.contains(&message.sequence) {
                messages.push(message);
            }
            rest = after;
        }
        Ok(messages)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[derive(Debug)]
struct Message<'b> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'b [u8],
}

impl<'b> Message<'b> {
    /// The first message in `bytes`, and what follows it.
    fn split(bytes: &'b [u8]) -> Option<(Self, &'b [u8])> {
        let length = u32_of(bytes)? as usize;
        let header = bytes.get(..HEADER)?;
        let payload = bytes.get(HEADER..length)?;
        let short = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((Self { kind: short(4), flags: short(6), sequence: u32_of(&header[8..])?, payload }, after))
    }
}

/// What an NLMSG_ERROR says: a negated errno, 0 for success.
fn acknowledged(payload: &[u8]) -> io::Result<()> {
    match u32_of(payload).map(|n| n as i32) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_round_trip_and_cut_ones_end_the_list() {
        let body = Body::new(&[9]).text(3, "br0").nested(18, |b| b.attr(1, &7u32.to_ne_bytes()));
        let list: Vec<_> = attributes(&body.0[4..]).collect();
        assert_eq!(list[0], (3, &b"br0\0"[..]));
        assert_eq!(list[1].0, 18);
        assert_eq!(attributes(list[1].1).next().and_then(|(_, v)| u32_of(v)), Some(7));
        assert_eq!(attributes(&[8, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn a_request_from_behind_is_refused_like_any_other_or_not_waited_for() {
        // Removes a link with a number that none has. struct ifinfomsg: family, pad, type, index, flags, change.
        let body = Body::new(&[&[0; 4][..], &i32::MAX.to_ne_bytes(), &[0; 8]].concat());
        let refused =
            Netlink::open().unwrap().request(libc::RTM_DELLINK, 0, &body).unwrap_err().raw_os_error();
        assert!(matches!(refused, Some(libc::ENODEV | libc::EPERM)), "{refused:?}");
        let request = (libc::RTM_DELLINK, 0, &body);
        let from_behind = Netlink::request_until(request, &[], |_| false).unwrap_err().raw_os_error();
        assert_eq!(from_behind, refused);
        Netlink::request_until(request, &[], |_| true).unwrap();
    }
}
