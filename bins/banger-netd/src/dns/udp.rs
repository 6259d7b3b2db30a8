//! Questions over UDP: one thread, many packets per system call.

use std::io;
use std::net::{IpAddr, SocketAddrV4, UdpSocket};
use std::time::Instant;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::dns::inflight::{Due, InFlight};
use crate::dns::reply::{self, Verdict};
use crate::dns::shared::Shared;
use crate::sys::datagram::{BATCH, Inbox, Outbox};

/// What the listening socket is called among those that are watched.
const LISTENER: u64 = u64::MAX;

/// Answers for ever.
///
/// # Errors
/// The socket, or what watches it, fails.
pub fn run(socket: &UdpSocket, shared: &Shared) -> io::Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let watch = |socket: &UdpSocket, number| {
        Ok(epoll::add(&epoll, socket, EventData::new_u64(number), EventFlags::IN)?)
    };
    watch(socket, LISTENER)?;
    let mut server = Server { socket, shared, inbox: Inbox::default(), outbox: Outbox::default() };
    let mut flights = InFlight::default();
    let mut events: Vec<Event> = Vec::with_capacity(BATCH);
    loop {
        let timeout = flights.wait().map(|left| Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() });
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => server.answer_batch(&mut flights, &watch)?,
                number => server.send(flights.hear(number, watch)),
            }
        }
        server.send(flights.expire(Instant::now(), watch));
    }
}

struct Server<'s> {
    socket: &'s UdpSocket,
    shared: &'s Shared,
    inbox: Inbox,
    outbox: Outbox,
}

impl Server<'_> {
    fn answer_batch(
        &mut self,
        flights: &mut InFlight,
        watch: &impl Fn(&UdpSocket, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let count = self.inbox.receive(self.socket)?;
        let zone = self.shared.zone();
        for n in 0..count {
            let Some(datagram) = self.inbox.get(n) else { continue };
            // Port 0 is nobody's to answer to, and a packet that came in elsewhere is no guest's, whatever it says.
            if datagram.from.port() == 0 || !self.shared.is_inside(datagram.link) {
                continue;
            }
            let client = IpAddr::V4(*datagram.from.ip());
            match reply::reply(&zone, client, datagram.bytes, self.outbox.draft()) {
                Verdict::Ignore => {}
                Verdict::Answered => self.outbox.keep(datagram.from),
                Verdict::Forward(question) => {
                    let servers = self.shared.upstreams.list();
                    if let Some(due) = flights.begin(datagram.from, datagram.bytes, &question, servers, watch)
                    {
                        *self.outbox.draft() = due.packet;
                        self.outbox.keep(due.to);
                    }
                }
            }
        }
        self.outbox.send(self.socket);
        Ok(())
    }

    fn send(&self, due: impl IntoIterator<Item = Due>) {
        for Due { to, packet } in due {
            // Lost, as datagrams are.
            drop(self.socket.send_to(&packet, to as SocketAddrV4));
        }
    }
}
