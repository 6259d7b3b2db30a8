//! Questions that came over UDP and are on their way to others. Each has a socket of its own, so that its port is as
//! hard to guess as its id (RFC 5452), and an ICMP error tells at once that nobody listens.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::question::Question;
use super::reply::{self, Code};
use super::upstream::{self, PATIENCE, TRIES};
use banger_host::random;

/// How many questions are on their way at once.
const MOST: usize = 256;
/// How many of them are one client's: a guest that asks without end takes its own share only.
const MOST_OF_ONE: usize = 64;
/// The longest answer that is passed on over UDP, bytes. What is longer is asked again over TCP.
const MAX_ANSWER: usize = 4096;

/// One question on its way.
#[derive(Debug)]
struct Flight {
    client: SocketAddrV4,
    id: [u8; 2],
    /// The packet as it came, but for the id.
    packet: Vec<u8>,
    head: usize,
    limit: usize,
    servers: Arc<[SocketAddr]>,
    tries: usize,
    socket: Option<UdpSocket>,
    until: Instant,
}

/// What is due to a client.
#[derive(Debug)]
pub struct Due {
    /// The client.
    pub to: SocketAddrV4,
    /// Its answer.
    pub packet: Vec<u8>,
}

/// All questions on their way, by number.
#[derive(Debug, Default)]
pub struct InFlight {
    flights: Vec<Option<Flight>>,
    per_client: HashMap<Ipv4Addr, usize>,
    count: usize,
    buffer: Vec<u8>,
}

impl InFlight {
    /// Sends `packet`, which holds `question`, on its way; `watch` is told of its socket and number. Gives the answer that the
    /// client gets instead where there is nobody to ask, or too much on its way already.
    pub fn begin(
        &mut self,
        client: SocketAddrV4,
        packet: &[u8],
        question: &Question<'_>,
        servers: Arc<[SocketAddr]>,
        watch: impl Fn(&UdpSocket, u64) -> io::Result<()>,
    ) -> Option<Due> {
        let flight = Flight {
            client,
            id: [packet[0], packet[1]],
            packet: packet.to_vec(),
            head: question.head.len(),
            limit: question.udp_limit().min(MAX_ANSWER),
            servers,
            tries: 0,
            socket: None,
            until: Instant::now(),
        };
        if self.count >= MOST || self.per_client.get(client.ip()).is_some_and(|n| *n >= MOST_OF_ONE) {
            return Some(flight.failed());
        }
        let number = self.flights.iter().position(Option::is_none).unwrap_or(self.flights.len());
        if number == self.flights.len() {
            self.flights.push(None);
        }
        self.flights[number] = Some(flight);
        self.count += 1;
        *self.per_client.entry(*client.ip()).or_default() += 1;
        self.ask_next(number, &watch)
    }

    /// What came for the flight `number`.
    pub fn hear(&mut self, number: u64, watch: impl Fn(&UdpSocket, u64) -> io::Result<()>) -> Option<Due> {
        let number = usize::try_from(number).ok()?;
        let flight = self.flights.get_mut(number)?.as_mut()?;
        self.buffer.resize(MAX_ANSWER, 0);
        let received = flight.socket.as_ref()?.recv(&mut self.buffer);
        match received {
            Ok(length) => {
                let answer = &self.buffer[..length];
                if !upstream::answers(&flight.packet, flight.head, answer) {
                    return None;
                }
                let last = flight.tries >= TRIES.min(flight.servers.len());
                if upstream::is_no_help(answer) && !last {
                    return self.ask_next(number, &watch);
                }
                let due = flight.answered(answer);
                self.end(number);
                Some(due)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // Nobody listens there.
            Err(_) => self.ask_next(number, &watch),
        }
    }

    /// Asks others for what was waited for long enough.
    pub fn expire(&mut self, now: Instant, watch: impl Fn(&UdpSocket, u64) -> io::Result<()>) -> Vec<Due> {
        if self.count == 0 {
            return Vec::new();
        }
        let late = |flight: &Option<Flight>| flight.as_ref().is_some_and(|flight| flight.until <= now);
        let numbers: Vec<usize> = (0..self.flights.len()).filter(|n| late(&self.flights[*n])).collect();
        numbers.into_iter().filter_map(|number| self.ask_next(number, &watch)).collect()
    }

    /// How long to wait at most.
    pub fn wait(&self) -> Option<Duration> {
        (self.count > 0).then_some(Duration::from_millis(50))
    }

    /// Asks the next resolver; the last one's silence is a failure.
    fn ask_next(&mut self, number: usize, watch: &impl Fn(&UdpSocket, u64) -> io::Result<()>) -> Option<Due> {
        let flight = self.flights[number].as_mut().expect("the number is a flight's");
        while flight.tries < TRIES && !flight.servers.is_empty() {
            let server = flight.servers[flight.tries % flight.servers.len()];
            flight.tries += 1;
            flight.socket = None;
            let sent = flight.send(server).and_then(|socket| {
                watch(&socket, number as u64)?;
                Ok(socket)
            });
            if let Ok(socket) = sent {
                flight.socket = Some(socket);
                flight.until = Instant::now() + PATIENCE;
                return None;
            }
        }
        let due = flight.failed();
        self.end(number);
        Some(due)
    }

    /// Forgets a flight; its socket, once closed, is watched no more.
    fn end(&mut self, number: usize) {
        if let Some(flight) = self.flights[number].take() {
            self.count -= 1;
            if let Some(of_client) = self.per_client.get_mut(flight.client.ip()) {
                *of_client -= 1;
                if *of_client == 0 {
                    self.per_client.remove(flight.client.ip());
                }
            }
        }
    }
}

impl Flight {
    fn send(&mut self, server: SocketAddr) -> io::Result<UdpSocket> {
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        socket.connect(server)?;
        self.packet[..2].copy_from_slice(&random::bytes::<2>());
        socket.send(&self.packet)?;
        Ok(socket)
    }

    /// The answer as the client gets it.
    fn answered(&self, answer: &[u8]) -> Due {
        let mut packet = Vec::new();
        match Question::read(&self.packet) {
            Ok(question) if answer.len() > self.limit => reply::truncated(&question, &mut packet),
            _ => packet.extend(answer),
        }
        self.due(packet)
    }

    fn failed(&self) -> Due {
        let mut packet = Vec::new();
        if let Ok(question) = Question::read(&self.packet) {
            reply::plain(&question, Code::ServFail, &mut packet);
        }
        self.due(packet)
    }

    fn due(&self, mut packet: Vec<u8>) -> Due {
        packet[..2].copy_from_slice(&self.id);
        Due { to: self.client, packet }
    }
}
