//! The two sides, their applications, and the bytes between them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use pktconn_codec::{Checksum, CodecConfig, HeaderFormat, Packet, PacketCodec};
use pktconn_session::frame::{
    ControlFrame, Decoded, GoAway, GoAwayReason, Reject, RejectReason, Secret, SessionId, WireFormat,
    decode_control, encode_control,
};
use pktconn_session::{
    ClientSession, ConnectionId, EndReason, Ended, FrameRefused, PACKET_OVERHEAD, Received, ServerSession,
    Session, SessionConfig, Transmit, check_new,
};

use crate::random::Random;

const REPLAY_BYTES: u32 = 2000;
const TTL: Duration = Duration::from_secs(20);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_PAYLOAD_LEN: usize = 600;

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    decoder: PacketCodec,
    /// Written and not arrived.
    in_flight: BytesMut,
    /// Arrived and not decoded.
    arrived: BytesMut,
    /// The writer has ended its direction, after `in_flight`.
    has_ended: bool,
}

/// A connection. A cut is seen by each end at its own time.
#[derive(Default)]
struct Conn {
    to_server: Pipe,
    to_client: Pipe,
    is_cut: bool,
    /// The cut is seen by no end, as if the network had vanished: only silence tells.
    is_silent: bool,
    client_is_open: bool,
    server_is_open: bool,
    /// The session that HELLO named, on the server's side.
    session: Option<SessionId>,
}

/// An application, and what it has sent and got.
#[derive(Default)]
struct App {
    sent: u64,
    received: u64,
}

pub(crate) struct World {
    random: Random,
    is_verbose: bool,
    started: Instant,
    now: Instant,
    codec: PacketCodec,
    wire: WireFormat,
    client: ClientSession,
    sessions: BTreeMap<SessionId, ServerSession>,
    /// The end of the server's side of the session that was established.
    server_end: Option<Ended>,
    client_end: Option<Ended>,
    established: Option<SessionId>,
    conns: BTreeMap<ConnectionId, Conn>,
    next_conn: u64,
    client_app: App,
    server_app: App,
    /// Until the session is asked to end, nothing may be lost.
    is_ending: bool,
    /// Time has passed that can end a session: a jump, or the deadline of GOAWAY.
    is_late: bool,
}

impl World {
    pub(crate) fn new(seed: u64, is_verbose: bool) -> Self {
        let mut random = Random::new(seed);
        let header = if random.one_in(2) { HeaderFormat::U32Le } else { HeaderFormat::U32Be };
        let checksum = if random.one_in(2) { Checksum::None } else { Checksum::Crc32 };
        let codec_config = CodecConfig::new().header(header).checksum(checksum);
        let now = Instant::now();
        Self {
            random,
            is_verbose,
            started: now,
            now,
            codec: PacketCodec::new(codec_config),
            wire: WireFormat::new(&codec_config).unwrap(),
            client: ClientSession::new(config()).hello_timeout(Duration::from_secs(2)),
            sessions: BTreeMap::new(),
            server_end: None,
            client_end: None,
            established: None,
            conns: BTreeMap::new(),
            next_conn: 0,
            client_app: App::default(),
            server_app: App::default(),
            is_ending: false,
            is_late: false,
        }
    }

    fn log(&self, text: impl FnOnce() -> String) {
        if self.is_verbose {
            println!("{:?} {}", self.now - self.started, text());
        }
    }

    pub(crate) fn run(mut self) {
        let steps = 50 + self.random.below(1500);
        // Some worlds have no cuts, most have many; some jump far in time.
        let cuts_one_in = [8, 30, 100, 1_000_000][self.random.below(4) as usize];
        let jumps_one_in = [1_000_000, 1_000_000, 300][self.random.below(3) as usize];
        let ends_one_in = [1_000_000, 1000, 200][self.random.below(3) as usize];
        for _ in 0..steps {
            self.step(cuts_one_in, jumps_one_in, ends_one_in);
            self.check();
        }
        self.finish();
    }

    fn step(&mut self, cuts_one_in: u64, jumps_one_in: u64, ends_one_in: u64) {
        match self.random.below(10) {
            0 => self.client_sends(),
            1 => self.server_sends(),
            2 => self.client_receives(),
            3 => self.server_receives(),
            4 => self.connect(false),
            _ => self.move_bytes(),
        }
        if self.random.one_in(cuts_one_in) {
            self.cut();
        }
        let pause = match self.random.below(20) {
            0 => 1 + self.random.below(40),
            1..=4 => self.random.below(4),
            _ => 0,
        };
        let jump = if self.random.one_in(jumps_one_in) { self.random.below(40_000) } else { 0 };
        self.is_late |= jump > 0;
        self.advance(Duration::from_millis(pause + jump));
        if self.random.one_in(ends_one_in) {
            self.end_something();
        }
    }

    /// Without cuts: everything arrives, or the ranges in doubt say what may be missing.
    fn finish(&mut self) {
        self.log(|| "no more cuts".into());
        if self.random.one_in(2) {
            self.is_ending = true;
            let now = self.now;
            if self.random.one_in(2) {
                self.client.session_mut().finish(now);
            } else {
                self.client.session_mut().close(now);
            }
        }
        let started = self.now;
        let mut rounds = 0;
        loop {
            rounds += 1;
            if rounds % 3 == 0 {
                self.connect(true);
            }
            for _ in 0..4 {
                self.move_bytes();
            }
            self.client_receives();
            self.server_receives();
            self.advance(Duration::from_millis(5));
            self.check();
            if self.is_quiet() {
                break;
            }
            assert!(
                self.now < started + TTL * 3,
                "no end after {:?}: {}",
                self.now - started,
                self.describe()
            );
        }
        self.check_outcome();
    }

    fn is_quiet(&self) -> bool {
        if self.is_ending || self.client_end.is_some() {
            let is_forgotten = |id: &SessionId| !self.sessions.contains_key(id);
            return self.client.session().is_over() && self.established.as_ref().is_none_or(is_forgotten);
        }
        let server = self.established.and_then(|id| self.sessions.get(&id));
        let Some(server) = server else { return false };
        self.client_app.received == self.server_app.sent
            && self.server_app.received == self.client_app.sent
            && self.client.session().held_bytes() == 0
            && server.session().held_bytes() == 0
    }

    fn describe(&self) -> String {
        format!(
            "client {:?}, sent {} received {}; server {:?}, sent {} received {}; ending {}",
            self.client.session().state(),
            self.client_app.sent,
            self.client_app.received,
            self.established.and_then(|id| self.sessions.get(&id)).map(|server| server.session().state()),
            self.server_app.sent,
            self.server_app.received,
            self.is_ending
        )
    }

    fn client_sends(&mut self) {
        let len = 8 + self.random.below(MAX_PAYLOAD_LEN as u64 - 8) as usize;
        if self.client.session().unsent_bytes() < 5000
            && self.client.session_mut().send(packet(self.client_app.sent, len)).is_ok()
        {
            self.client_app.sent += 1;
        }
    }

    fn server(&mut self) -> Option<&mut ServerSession> {
        self.sessions.get_mut(&self.established?)
    }

    fn server_sends(&mut self) {
        let len = 8 + self.random.below(MAX_PAYLOAD_LEN as u64 - 8) as usize;
        let packet = packet(self.server_app.sent, len);
        let Some(server) = self.server() else { return };
        if server.session().unsent_bytes() < 5000 && server.session_mut().send(packet).is_ok() {
            self.server_app.sent += 1;
        }
    }

    fn client_receives(&mut self) {
        let now = self.now;
        loop {
            match self.client.session_mut().recv(now) {
                Received::Packet(packet) => {
                    assert_eq!(number(&packet), self.client_app.received, "the client got another packet");
                    self.client_app.received += 1;
                }
                Received::Nothing => return,
                Received::End => {
                    self.client.session_mut().finish(now);
                    return;
                }
            }
            if self.random.one_in(4) {
                return;
            }
        }
    }

    fn server_receives(&mut self) {
        let now = self.now;
        loop {
            let Some(server) = self.server() else { return };
            match server.session_mut().recv(now) {
                Received::Packet(packet) => {
                    assert_eq!(number(&packet), self.server_app.received, "the server got another packet");
                    self.server_app.received += 1;
                }
                Received::Nothing => return,
                Received::End => {
                    // The handler ends with its stream.
                    server.session_mut().finish(now);
                    return;
                }
            }
            if self.random.one_in(4) {
                return;
            }
        }
    }

    fn end_something(&mut self) {
        let now = self.now;
        let spread_ms = self.random.below(2000) as u32;
        let deadline_ms = self.random.below(4000) as u32;
        let choice = self.random.below(6);
        self.log(|| format!("ends: {choice}"));
        match choice {
            0 => self.client.session_mut().finish(now),
            1 => self.client.session_mut().close(now),
            2 => self.client.session_mut().fail(now),
            choice => {
                let Some(server) = self.server() else { return };
                let session = server.session_mut();
                let go_away =
                    GoAway { reason: GoAwayReason::Load, deadline_ms, spread_ms, address: String::new() };
                match choice {
                    3 => session.finish(now),
                    4 => session.close(now),
                    _ => session.go_away(go_away, now),
                }
                self.is_late |= choice == 5;
            }
        }
        self.is_ending = true;
    }

    fn connect(&mut self, is_calm: bool) {
        let wants = self.client.wants_connection() && self.client.retry_at().is_none_or(|at| at <= self.now);
        // Sometimes a client gives up a connection that works.
        let is_race = !is_calm && !self.client.session().is_over() && self.random.one_in(20);
        if !wants && !is_race {
            return;
        }
        let id = ConnectionId(self.next_conn);
        self.next_conn += 1;
        self.log(|| format!("{id:?} connects"));
        let pipe = || Pipe { decoder: PacketCodec::new(*self.codec.config()), ..Pipe::default() };
        let (to_server, to_client) = (pipe(), pipe());
        let conn =
            Conn { to_server, to_client, client_is_open: true, server_is_open: true, ..Conn::default() };
        self.conns.insert(id, conn);
        self.client.connected(id, self.now);
    }

    fn any_conn(&mut self) -> Option<ConnectionId> {
        if self.conns.is_empty() {
            return None;
        }
        let index = self.random.below(self.conns.len() as u64) as usize;
        self.conns.keys().nth(index).copied()
    }

    fn cut(&mut self) {
        let Some(id) = self.any_conn() else { return };
        let keep = [self.random.next(), self.random.next()];
        let is_silent = self.random.one_in(4);
        let conn = self.conns.get_mut(&id).unwrap();
        if conn.is_cut {
            return;
        }
        conn.is_cut = true;
        conn.is_silent = is_silent;
        // A cut can be anywhere, also within a frame.
        for (pipe, keep) in [&mut conn.to_server, &mut conn.to_client].into_iter().zip(keep) {
            pipe.in_flight.truncate((keep % (pipe.in_flight.len() as u64 + 1)) as usize);
            pipe.has_ended = false;
        }
        self.log(|| format!("{id:?} is cut"));
    }

    fn move_bytes(&mut self) {
        for _ in 0..=self.random.below(4) {
            let Some(id) = self.any_conn() else { return };
            match self.random.below(4) {
                0 => self.client_writes(id),
                1 => self.server_writes(id),
                2 => self.client_reads(id),
                _ => self.server_reads(id),
            }
            self.forget_conns();
        }
    }

    fn client_writes(&mut self, id: ConnectionId) {
        for _ in 0..=self.random.below(8) {
            let conn = self.conns.get_mut(&id).unwrap();
            if !conn.client_is_open {
                return;
            }
            let Some(transmit) = self.client.transmit(id, self.now) else { return };
            if self.is_verbose {
                println!("{id:?} client writes {}", shown(&transmit));
            }
            put(transmit, &self.codec, self.wire, conn.is_cut, &mut conn.to_server);
        }
    }

    fn server_writes(&mut self, id: ConnectionId) {
        for _ in 0..=self.random.below(8) {
            let conn = self.conns.get_mut(&id).unwrap();
            let Some(session) = conn.session.filter(|_| conn.server_is_open) else { return };
            let Some(server) = self.sessions.get_mut(&session) else { return };
            let Some(transmit) = server.transmit(id, self.now) else { return };
            if self.is_verbose {
                println!("{id:?} server writes {}", shown(&transmit));
            }
            put(transmit, &self.codec, self.wire, conn.is_cut, &mut conn.to_client);
        }
    }

    fn client_reads(&mut self, id: ConnectionId) {
        let amount = 1 + self.random.below(700) as usize;
        let conn = self.conns.get_mut(&id).unwrap();
        if !conn.client_is_open {
            return;
        }
        let has_bytes = !conn.to_client.in_flight.is_empty();
        let has_ended = conn.to_client.arrive(amount);
        let is_lost = conn.is_cut && !conn.is_silent && conn.to_client.in_flight.is_empty();
        if has_ended || is_lost {
            // All that arrived before is decoded first.
            self.client_decodes(id);
            let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.client_is_open) else { return };
            conn.client_is_open = false;
            self.log(|| format!("{id:?} client sees the end"));
            self.client.connection_ended(id, self.now);
            return;
        }
        if has_bytes {
            self.client.heard(id, self.now);
        }
        self.client_decodes(id);
    }

    fn client_decodes(&mut self, id: ConnectionId) {
        loop {
            let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.client_is_open) else { return };
            let Some(frame) = next_frame(&mut conn.to_client, self.wire) else {
                return;
            };
            if self.is_verbose {
                println!("{id:?} client reads {}", shown(&frame));
            }
            let random = self.random.next() as u32;
            let received = match frame {
                Transmit::Data(packet) => self.client.receive_data(id, packet),
                Transmit::Control(frame) => self.client.receive_control(id, &frame, random, self.now),
            };
            received.unwrap_or_else(|error| panic!("the client refused an honest frame: {error}"));
        }
    }

    fn server_reads(&mut self, id: ConnectionId) {
        let amount = 1 + self.random.below(700) as usize;
        let conn = self.conns.get_mut(&id).unwrap();
        if !conn.server_is_open {
            return;
        }
        let has_bytes = !conn.to_server.in_flight.is_empty();
        let has_ended = conn.to_server.arrive(amount);
        let is_lost = conn.is_cut && !conn.is_silent && conn.to_server.in_flight.is_empty();
        if has_ended || is_lost {
            self.server_decodes(id);
            let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.server_is_open) else { return };
            conn.server_is_open = false;
            let session = conn.session;
            self.log(|| format!("{id:?} server sees the end"));
            if let Some(server) = session.and_then(|session| self.sessions.get_mut(&session)) {
                server.connection_ended(id, self.now);
            }
            return;
        }
        if has_bytes && let Some(server) = conn.session.and_then(|session| self.sessions.get_mut(&session)) {
            server.heard(id, self.now);
        }
        self.server_decodes(id);
    }

    fn server_decodes(&mut self, id: ConnectionId) {
        loop {
            let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.server_is_open) else { return };
            let Some(frame) = next_frame(&mut conn.to_server, self.wire) else {
                return;
            };
            if self.is_verbose {
                println!("{id:?} server reads {}", shown(&frame));
            }
            let Some(session) = conn.session else {
                let Transmit::Control(ControlFrame::Hello(hello)) = frame else {
                    panic!("the first frame is not HELLO: {frame:?}")
                };
                self.hello(id, &hello);
                continue;
            };
            let Some(server) = self.sessions.get_mut(&session) else { continue };
            let received = match frame {
                Transmit::Data(packet) => server.receive_data(id, packet),
                Transmit::Control(frame) => server.receive_control(id, &frame, self.now),
            };
            received
                .unwrap_or_else(|error: FrameRefused| panic!("the server refused an honest frame: {error}"));
            if server.is_established() && self.established != Some(session) {
                self.begin_session(session);
            }
        }
    }

    /// The server starts a handler. It is the second one only if the first session has ended before the client knew of it.
    fn begin_session(&mut self, session: SessionId) {
        if self.established.is_some() {
            let ended =
                self.server_end.take().expect("a second session is established while the first one lives");
            assert!(!matches!(ended.reason, EndReason::Settled { .. }), "{:?}", ended.reason);
            check_ended(&ended, self.server_app.sent, 0, "expired server");
            assert_eq!(
                (self.server_app.received, self.client_app.received),
                (0, 0),
                "packets were handed over"
            );
            self.server_app = App::default();
            self.is_ending = self.client_end.is_some();
        }
        self.established = Some(session);
    }

    fn hello(&mut self, id: ConnectionId, hello: &pktconn_session::frame::Hello) {
        let answer = if hello.id == SessionId::NEW {
            check_new(hello).unwrap();
            let session = SessionId(u128::from(self.random.next() | 1).to_le_bytes());
            let secret = Secret(u128::from(self.random.next()).to_le_bytes());
            let accepted =
                ServerSession::accept(hello, (session, secret), String::new(), config(), id, self.now);
            self.sessions.insert(session, accepted.unwrap());
            Ok((session, None))
        } else {
            match self.sessions.get_mut(&hello.id) {
                None => Err(Reject { reason: RejectReason::Unknown, retry_after_ms: 0 }),
                Some(server) => server.resume(hello, id, self.now).map(|fenced| (hello.id, fenced)),
            }
        };
        match answer {
            Ok((session, fenced)) => {
                self.conns.get_mut(&id).unwrap().session = Some(session);
                if self.sessions[&session].is_established() && self.established.is_none() {
                    self.established = Some(session);
                }
                if let Some(conn) = fenced.and_then(|fenced| self.conns.get_mut(&fenced)) {
                    // The server closes this connection a bit later, and may read from it until then.
                    let reject = ControlFrame::Reject(Reject::superseded());
                    put(Transmit::Control(reject), &self.codec, self.wire, conn.is_cut, &mut conn.to_client);
                    conn.to_client.has_ended = !conn.is_cut;
                }
            }
            Err(reject) => {
                assert_ne!(reject.reason, RejectReason::Diverged, "{hello:?}");
                let conn = self.conns.get_mut(&id).unwrap();
                let reject = ControlFrame::Reject(reject);
                put(Transmit::Control(reject), &self.codec, self.wire, conn.is_cut, &mut conn.to_client);
                conn.server_closes();
            }
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        if self.client.timeout().is_some_and(|at| at <= now)
            && let Some(lost) = self.client.handle_timeout(now)
            && let Some(conn) = self.conns.get_mut(&lost)
        {
            conn.client_is_open = false;
            conn.is_cut = true;
        }
        assert!(
            self.client.timeout().is_none_or(|at| at > now),
            "the client's timer would fire again at once"
        );
        for server in self.sessions.values_mut() {
            if server.timeout().is_some_and(|at| at <= now)
                && let Some(lost) = server.handle_timeout(now)
                && let Some(conn) = self.conns.get_mut(&lost)
            {
                conn.server_is_open = false;
                conn.is_cut = true;
            }
            assert!(
                server.timeout().is_none_or(|at| at > now),
                "the server's timer would fire again at once"
            );
        }
    }

    fn forget_conns(&mut self) {
        let (client, sessions) = (&self.client, &self.sessions);
        let newest = ConnectionId(self.next_conn.saturating_sub(1));
        self.conns.retain(|id, conn| {
            if conn.is_silent {
                // Each side closes a silent connection at some time after it has left it.
                conn.client_is_open &= *id == newest;
                let is_used =
                    |id: &SessionId| sessions.get(id).and_then(|server| server.session().connection());
                conn.server_is_open &= conn.session.as_ref().and_then(is_used) == Some(*id);
            }
            if conn.client_is_open && client.session().is_over() {
                conn.client_closes();
            }
            conn.is_cut |= !conn.client_is_open && !conn.to_server.has_ended;
            conn.client_is_open || conn.server_is_open
        });
    }

    fn check(&mut self) {
        for session in [Some(self.client.session()), self.established_session()].into_iter().flatten() {
            let max = (REPLAY_BYTES as usize).max(MAX_PAYLOAD_LEN + PACKET_OVERHEAD);
            assert!(session.held_bytes() <= max, "{} bytes are held", session.held_bytes());
        }
        if let Some(ended) = self.client.session().ended()
            && self.client_end.is_none()
        {
            self.log(|| format!("client ended: {:?}, in doubt {:?}", ended.reason, ended.in_doubt));
            self.client_end = Some(ended.clone());
        }
        if let Some(ended) = self.established_session().and_then(Session::ended)
            && self.server_end.is_none()
        {
            self.log(|| format!("server ended: {:?}, in doubt {:?}", ended.reason, ended.in_doubt));
            self.server_end = Some(ended.clone());
        }
        let established = self.established;
        self.sessions.retain(|id, server| {
            let is_over = server.session().is_over();
            assert!(!(is_over && established == Some(*id) && server.session().ended().is_none()));
            if is_over
                && let Some(conn) = server.session().connection().and_then(|id| self.conns.get_mut(&id))
            {
                // The server closes the connection of a session that it forgets.
                conn.server_closes();
            }
            !is_over
        });
    }

    fn established_session(&self) -> Option<&Session> {
        Some(self.sessions.get(&self.established?)?.session())
    }

    fn check_outcome(&mut self) {
        let client = self.client_end.take();
        let server = self.server_end.take();
        if client.is_none() && server.is_none() {
            assert_eq!(self.client_app.received, self.server_app.sent);
            assert_eq!(self.server_app.received, self.client_app.sent);
            return;
        }
        for ended in [&client, &server].into_iter().flatten().filter(|_| !self.is_late) {
            assert!(
                matches!(ended.reason, EndReason::Settled { .. }),
                "ended without a cause: {:?}",
                ended.reason
            );
        }
        if let Some(ended) = &client {
            check_ended(ended, self.client_app.sent, self.server_app.received, "client");
        }
        if let Some(ended) = &server {
            check_ended(ended, self.server_app.sent, self.client_app.received, "server");
        }
    }
}

fn check_ended(ended: &Ended, sent: u64, received_by_peer: u64, side: &str) {
    let max = ended.in_doubt.end.max(ended.handed_over);
    if ended.in_doubt.is_empty() {
        assert_eq!(ended.handed_over, received_by_peer, "{side}: {:?}", ended.reason);
    } else {
        assert!(
            (ended.handed_over..=max).contains(&received_by_peer),
            "{side}: the peer has got {received_by_peer}; {:?}, in doubt {:?}",
            ended.reason,
            ended.in_doubt
        );
        assert!(
            !matches!(ended.reason, EndReason::Settled { .. }),
            "{side}: settled, in doubt {:?}",
            ended.in_doubt
        );
    }
    let packets: Vec<u64> = ended.not_acknowledged.iter().chain(&ended.unsent).map(number).collect();
    assert_eq!(packets, (ended.handed_over..sent).collect::<Vec<_>>(), "{side}: not all packets came back");
}

impl Conn {
    /// The client closes after its last frame; the server sees the end after all bytes.
    fn client_closes(&mut self) {
        self.to_server.has_ended = !self.is_cut;
        self.client_is_open = false;
    }

    /// The server closes after its last frame; the client sees the end after all bytes.
    fn server_closes(&mut self) {
        self.to_client.has_ended = !self.is_cut;
        self.server_is_open = false;
    }
}

impl Pipe {
    /// Lets bytes arrive. Returns true at the end of a direction that was ended.
    fn arrive(&mut self, amount: usize) -> bool {
        let len = amount.min(self.in_flight.len());
        self.arrived.extend_from_slice(&self.in_flight.split_to(len));
        self.in_flight.is_empty() && self.has_ended
    }
}

fn put(transmit: Transmit, codec: &PacketCodec, wire: WireFormat, is_cut: bool, pipe: &mut Pipe) {
    if is_cut {
        return;
    }
    match transmit {
        Transmit::Control(frame) => encode_control(&frame, wire, &mut pipe.in_flight),
        Transmit::Data(packet) => codec.encode_frame(&packet, &mut pipe.in_flight).unwrap(),
    }
}

fn next_frame(pipe: &mut Pipe, wire: WireFormat) -> Option<Transmit> {
    let bytes = &mut pipe.arrived;
    match decode_control(bytes, wire).unwrap() {
        Decoded::Incomplete { len } => {
            assert!(len > bytes.len());
            None
        }
        Decoded::Data => pipe.decoder.decode_frame(bytes).unwrap().map(Transmit::Data),
        Decoded::Control { frame, len } => {
            bytes.advance(len);
            Some(Transmit::Control(frame.expect("a known type")))
        }
    }
}

fn config() -> SessionConfig {
    let second = Duration::from_secs(1);
    SessionConfig::new()
        .replay_bytes(REPLAY_BYTES)
        .ttl(TTL)
        .close_timeout(CLOSE_TIMEOUT)
        .ping_interval(second)
        .ping_timeout(3 * second)
        .min_ping_interval(second)
}

fn packet(number: u64, len: usize) -> Packet {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(len, number as u8);
    payload.into()
}

fn number(packet: &Packet) -> u64 {
    let payload = packet.payload();
    let number = u64::from_le_bytes(payload[..8].try_into().unwrap());
    assert!(payload[8..].iter().all(|byte| *byte == number as u8), "an altered payload");
    number
}

fn shown(transmit: &Transmit) -> String {
    match transmit {
        Transmit::Data(packet) => format!("packet {}", number(packet)),
        other => format!("{other:?}"),
    }
}
