//! Questions over TCP: a thread per connection, few of them, each with an end in sight.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use banger_host::random;

use crate::dns::reply::{self, Code, Verdict};
use crate::dns::shared::Shared;
use crate::dns::upstream::{self, PATIENCE, TRIES};

/// How many connections there are at once.
const MOST: usize = 64;
/// How many of them are one client's.
const MOST_OF_ONE: usize = 8;
/// How long a client may take for one question, and to take its answer.
const LIMIT: Duration = Duration::from_secs(5);
/// How many questions one connection may bring.
const MAX_QUESTIONS: usize = 100;
/// The longest question, bytes.
const MAX_QUESTION: usize = 4096;
/// The stack of a connection's thread, bytes.
const STACK: usize = 256 << 10;

/// How many connections each client has.
#[derive(Debug, Default)]
struct Connections(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place among them.
struct Place {
    connections: Arc<Connections>,
    client: IpAddr,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut open = self.lock();
        if open.values().sum::<usize>() >= MOST {
            return None;
        }
        let of_client = open.entry(client).or_default();
        if *of_client >= MOST_OF_ONE {
            return None;
        }
        *of_client += 1;
        Some(Place { connections: self.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        match open.get_mut(&self.client) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(open.remove(&self.client)),
        }
    }
}

/// Answers for ever.
pub fn run(listener: &TcpListener, shared: &Arc<Shared>) {
    let connections = Arc::<Connections>::default();
    loop {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(_) => {
                // Out of descriptors, or the client went again: neither may become a busy loop.
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
        };
        if !shared.zone().is_client(peer.ip()) {
            continue;
        }
        let Some(place) = connections.enter(peer.ip()) else { continue };
        let shared = shared.clone();
        let thread = std::thread::Builder::new().stack_size(STACK);
        // Without a thread the connection is closed.
        drop(thread.spawn(move || {
            let _place = place;
            // A client that does not keep to the rules is left alone.
            drop(converse(stream, peer.ip(), &shared));
        }));
    }
}

fn converse(mut stream: TcpStream, client: IpAddr, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answer = Vec::new();
    for _ in 0..MAX_QUESTIONS {
        let until = Instant::now() + LIMIT;
        let question = read_message(&mut stream, MAX_QUESTION, until)?;
        match reply::reply(&shared.zone(), client, &question, &mut answer) {
            Verdict::Ignore => return Ok(()),
            Verdict::Answered => {}
            Verdict::Forward(asked) => match ask(&shared.upstreams.list(), &question, asked.head.len()) {
                Some(found) => answer = found,
                None => reply::plain(&asked, Code::ServFail, &mut answer),
            },
        }
        write_message(&mut stream, &answer, Instant::now() + LIMIT)?;
    }
    Ok(())
}

/// What is left until `until`; TimedOut where nothing is.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// One message with its length before it (RFC 1035, 4.2.2), whole before `until`, however slowly it comes.
fn read_message(stream: &mut TcpStream, most: usize, until: Instant) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    read_exact(stream, &mut length, until)?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    read_exact(stream, &mut message, until)?;
    Ok(message)
}

fn read_exact(stream: &mut TcpStream, mut buffer: &mut [u8], until: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => buffer = &mut buffer[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_message(stream: &mut TcpStream, message: &[u8], until: Instant) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    // In one piece: some clients read length and message each with one call.
    let whole = [&length.to_be_bytes(), message].concat();
    let mut rest = whole.as_slice();
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => rest = &rest[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Asks one resolver after the other over TCP; `None` where none of them helps.
fn ask(servers: &[SocketAddr], question: &[u8], head: usize) -> Option<Vec<u8>> {
    let mut no_help = None;
    for server in servers.iter().take(TRIES) {
        match ask_one(*server, question, head) {
            Ok(answer) if upstream::is_no_help(&answer) => no_help = Some(answer),
            Ok(answer) => return Some(answer),
            Err(_) => {}
        }
    }
    no_help
}

fn ask_one(server: SocketAddr, question: &[u8], head: usize) -> io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    let mut asked = question.to_vec();
    asked[..2].copy_from_slice(&random::bytes::<2>());
    write_message(&mut stream, &asked, until)?;
    let mut answer = read_message(&mut stream, usize::from(u16::MAX), until)?;
    if !upstream::answers(&asked, head, &answer) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    answer[..2].copy_from_slice(&question[..2]);
    Ok(answer)
}
