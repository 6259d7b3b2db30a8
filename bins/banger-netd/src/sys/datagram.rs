//! Many datagrams per system call (recvmmsg(2), sendmmsg(2)), with the link that each came in by (IP_PKTINFO, ip(7)).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{setsockopt, sockopt};

/// How many datagrams are taken at once.
pub const BATCH: usize = 32;
/// How many bytes of a datagram are taken; the rest is cut off.
const SIZE: usize = 2048;
/// Room for one control message with a `struct in_pktinfo`, as 8-byte words so that it is aligned.
const CONTROL_WORDS: usize = 8;

/// Has the kernel tell by which link each datagram of `socket` came in.
///
/// # Errors
/// Those of setsockopt(2).
pub fn tell_links(socket: &UdpSocket) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?)
}

/// Marks a socket and what it sends (SO_MARK in socket(7)).
///
/// # Errors
/// CAP_NET_ADMIN is lacking.
pub fn mark(socket: &impl AsFd, mark: u32) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::Mark, &mark)?)
}

/// One datagram.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'b> {
    /// Who sent it.
    pub from: SocketAddrV4,
    /// The number of the link that it came in by; 0 where the kernel did not tell.
    pub link: u32,
    /// What it holds.
    pub bytes: &'b [u8],
}

/// Room for [`BATCH`] datagrams, made once.
pub struct Inbox {
    bytes: Box<[[u8; SIZE]; BATCH]>,
    from: Box<[libc::sockaddr_in; BATCH]>,
    control: Box<[[u64; CONTROL_WORDS]; BATCH]>,
    headers: Vec<libc::mmsghdr>,
    parts: Vec<libc::iovec>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

const NOBODY: libc::sockaddr_in =
    libc::sockaddr_in { sin_family: 0, sin_port: 0, sin_addr: libc::in_addr { s_addr: 0 }, sin_zero: [0; 8] };

fn empty_header() -> libc::mmsghdr {
    // SAFETY: an mmsghdr is integers and pointers, for which all-zero bytes are valid: null pointers and lengths of 0.
    unsafe { std::mem::zeroed() }
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            bytes: vec![[0; SIZE]; BATCH].try_into().expect("of that length"),
            from: Box::new([NOBODY; BATCH]),
            control: Box::new([[0; CONTROL_WORDS]; BATCH]),
            headers: vec![empty_header(); BATCH],
            parts: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH],
        }
    }
}

impl Inbox {
    /// Takes what has come, without waiting. Gives how many; 0 where nothing has.
    ///
    /// # Errors
    /// Those of recvmmsg(2). A socket that is not connected reports none of others'.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        for n in 0..BATCH {
            self.parts[n] = libc::iovec { iov_base: self.bytes[n].as_mut_ptr().cast(), iov_len: SIZE };
            let header = &mut self.headers[n].msg_hdr;
            header.msg_name = (&raw mut self.from[n]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_iov = &raw mut self.parts[n];
            header.msg_iovlen = 1;
            header.msg_control = self.control[n].as_mut_ptr().cast();
            header.msg_controllen = CONTROL_WORDS * 8;
        }
        let (headers, count) = (self.headers.as_mut_ptr(), BATCH as libc::c_uint);
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: every header points to one address, one part and one control buffer of this Inbox, with their true lengths, all of
        // which outlive the call and are borrowed mutably here.
        let got =
            unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, count, flags as _, std::ptr::null_mut()) };
        match usize::try_from(got) {
            Ok(got) => Ok(got),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                error => Err(error),
            },
        }
    }

    /// The `n`-th datagram of those that the last [`Self::receive`] gave; `None` where it is not one over IPv4.
    pub fn get(&self, n: usize) -> Option<Datagram<'_>> {
        let (header, from) = (&self.headers[n], &self.from[n]);
        if i32::from(from.sin_family) != libc::AF_INET {
            return None;
        }
        let address = Ipv4Addr::from(from.sin_addr.s_addr.to_ne_bytes());
        let from = SocketAddrV4::new(address, u16::from_be(from.sin_port));
        let bytes = self.bytes[n].get(..header.msg_len as usize)?;
        Some(Datagram { from, link: link_of(&header.msg_hdr), bytes })
    }
}

/// The link in the control message that the kernel wrote.
fn link_of(header: &libc::msghdr) -> u32 {
    // SAFETY: the header is one that recvmmsg filled in, so its control buffer holds msg_controllen valid bytes; CMSG_FIRSTHDR gives
    // null where those hold no message.
    let first = unsafe { libc::CMSG_FIRSTHDR(header) };
    if first.is_null() {
        return 0;
    }
    // SAFETY: CMSG_FIRSTHDR gave a pointer to a whole, aligned cmsghdr.
    let message = unsafe { first.read() };
    let wanted = libc::CMSG_LEN as unsafe extern "C" fn(u32) -> u32;
    // SAFETY: CMSG_LEN only computes.
    let length = unsafe { wanted(size_of::<libc::in_pktinfo>() as u32) } as usize;
    if (message.cmsg_level, message.cmsg_type) != (libc::IPPROTO_IP, libc::IP_PKTINFO)
        || message.cmsg_len < length
    {
        return 0;
    }
    // SAFETY: the message says that an in_pktinfo follows, and is long enough for it.
    let info = unsafe { libc::CMSG_DATA(first).cast::<libc::in_pktinfo>().read_unaligned() };
    info.ipi_ifindex.cast_unsigned()
}

/// Datagrams to be sent together.
pub struct Outbox {
    to: Vec<libc::sockaddr_in>,
    bytes: Vec<Vec<u8>>,
    used: usize,
    headers: Vec<libc::mmsghdr>,
    parts: Vec<libc::iovec>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("used", &self.used).finish_non_exhaustive()
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            to: vec![NOBODY; BATCH],
            bytes: vec![Vec::new(); BATCH],
            used: 0,
            headers: vec![empty_header(); BATCH],
            parts: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH],
        }
    }
}

impl Outbox {
    /// The buffer of the next datagram, to be kept with [`Self::keep`].
    ///
    /// # Panics
    /// [`BATCH`] of them were kept and not sent.
    pub fn draft(&mut self) -> &mut Vec<u8> {
        &mut self.bytes[self.used]
    }

    /// Keeps what was written to [`Self::draft`], for `to`.
    pub fn keep(&mut self, to: SocketAddrV4) {
        self.to[self.used] = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: to.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
            sin_zero: [0; 8],
        };
        self.used += 1;
    }

    /// Sends all that was kept, without waiting: what does not fit is lost, as datagrams are.
    pub fn send(&mut self, socket: &UdpSocket) {
        let count = std::mem::take(&mut self.used);
        for n in 0..count {
            let bytes = &mut self.bytes[n];
            self.parts[n] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let header = &mut self.headers[n].msg_hdr;
            header.msg_name = (&raw mut self.to[n]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_iov = &raw mut self.parts[n];
            header.msg_iovlen = 1;
        }
        let mut sent = 0;
        while sent < count {
            let headers = &mut self.headers[sent..count];
            let (pointer, left) = (headers.as_mut_ptr(), headers.len() as libc::c_uint);
            // SAFETY: every header points to one address and one part of this Outbox, with their true lengths, all of which outlive the
            // call; the rest of each header is zero.
            let got = unsafe { libc::sendmmsg(socket.as_raw_fd(), pointer, left, libc::MSG_DONTWAIT as _) };
            // The first one that cannot be sent stops the rest: it is left out.
            sent += usize::try_from(got).unwrap_or(0).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_arrive_with_sender_and_link() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        tell_links(&server).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let (mut inbox, mut outbox) = (Inbox::default(), Outbox::default());
        assert_eq!(inbox.receive(&server).unwrap(), 0);
        for n in 0..40_usize {
            client.send(&vec![n as u8; n * 100]).unwrap();
        }
        let mut seen = 0;
        while seen < 40 {
            let count = inbox.receive(&server).unwrap();
            for n in 0..count {
                let datagram = inbox.get(n).unwrap();
                assert_eq!(datagram.bytes, vec![seen as u8; (seen * 100).min(SIZE)], "{seen}");
                assert_eq!(
                    (std::net::SocketAddr::V4(datagram.from), datagram.link),
                    (client.local_addr().unwrap(), 1)
                );
                outbox.draft().clear();
                outbox.draft().extend([seen as u8; 3]);
                outbox.keep(datagram.from);
                seen += 1;
            }
            outbox.send(&server);
        }
        for n in 0..40 {
            let mut answer = [0; 9];
            assert_eq!(client.recv(&mut answer).unwrap(), 3);
            assert_eq!(answer[0], n);
        }
    }
}
