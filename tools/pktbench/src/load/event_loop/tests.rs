//! Tests of the loop with real connections, to a server that reads nothing.

use super::*;
use std::cell::Cell;
use std::net::{TcpListener, TcpStream};

use mio::Interest;
use mio::event::Source;

use crate::load::dialer::Opened;
use crate::load::stream::{Socket, Stream};
use crate::load::target::Targets;
use crate::plan::{Amount, Pace, tests::plan};
use crate::traffic::arrivals::Arrival;
use crate::traffic::payload::PayloadBlock;

const CONNS: usize = 50;

/// Runs an extreme overload, at a server that reads nothing. `on_publish` gets the recording of each turn of the
/// loop, the first one before any packet is sent, and the sender of the command.
fn overload(on_publish: impl Fn(&Recording, &watch::Sender<Command>)) -> Tally {
    let pace = Pace::Open { rate: 1e9, arrival: Arrival::Constant, max_outstanding: 1024 };
    let plan = Plan {
        conns: CONNS,
        pace,
        amount: Amount::Time(Duration::from_secs(3600)),
        // The first interval ends at once, and publishes.
        interval: Duration::from_nanos(1),
        ..plan()
    };
    let schedule = plan.schedule(Instant::now() - Duration::from_secs(1));
    let (sender, command) = watch::channel(Command::Go(schedule));
    let poll = Poll::new().unwrap();
    let _waker = mio::Waker::new(poll.registry(), WAKER).unwrap();
    let publish = |published: Published| on_publish(&published.recording, &sender);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let targets = Targets::from(listener.local_addr().unwrap());
    let dialer = Dialer::new(Arc::new(targets), Vec::new(), Duration::from_secs(10));
    let shared = Shared { plan: Arc::new(plan.clone()), command, progress: Arc::default() };
    let mut event_loop = EventLoop::new(poll, schedule, dialer, None, shared, publish).unwrap();
    let block = PayloadBlock::new(plan.sizes.distribution.max_len(), 2048);
    let mut peers = Vec::new();
    for conn in 0..CONNS {
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        peers.push(listener.accept().unwrap());
        let mut stream = Stream::new(Socket::Tcp(mio::net::TcpStream::from_std(stream)), None);
        let both = Interest::READABLE | Interest::WRITABLE;
        stream.register(event_loop.poll.registry(), Token(conn), both).unwrap();
        let opened = Opened { stream, target: 0, connect: Duration::ZERO, handshake: None };
        event_loop.add(SlotLoad::new(conn, &plan, block, schedule), Ok(opened));
    }
    event_loop.run().unwrap()
}

#[test]
fn nothing_is_sent_after_the_command_to_stop_however_many_packets_are_due() {
    let is_stopped = Cell::new(false);
    let tally = overload(|_, sender| {
        is_stopped.set(true);
        sender.send_replace(Command::Stop(StopReason::Aborted));
    });
    assert!(is_stopped.get());
    assert_eq!((tally.sent, tally.errors.count()), (0, 0), "packets sent after the command");
    assert!(tally.client.missed.count() > 0, "packets were due");
}

#[test]
fn a_connection_with_packets_that_were_not_answered_in_time_has_not_failed() {
    let (turns, failed) = (Cell::new(0), Cell::new(0));
    let tally = overload(|recording, sender| {
        turns.set(turns.get() + 1);
        failed.set(failed.get() + recording.failed);
        if turns.get() == 2 {
            sender.send_replace(Command::Stop(StopReason::TimedOut));
        }
    });
    assert_eq!((tally.errors.timeout, failed.get()), (CONNS as u64, 0));
}

/// The allocations of a closed loop over two connections to an echo server.
fn allocations(packets: u64) -> u64 {
    let plan = Plan { conns: 2, pipeline: 4, amount: Amount::Packets(packets), ..plan() };
    let schedule = plan.schedule(Instant::now());
    let (_sender, command) = watch::channel(Command::Go(schedule));
    let poll = Poll::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let targets = Arc::new(Targets::from(listener.local_addr().unwrap()));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    let mut dialer = Dialer::new(targets, Vec::new(), Duration::from_secs(10));
    let shared = Shared { plan: Arc::new(plan.clone()), command, progress: Arc::default() };
    // One block for all runs: it is never freed.
    static BLOCK: std::sync::OnceLock<PayloadBlock> = std::sync::OnceLock::new();
    let block = *BLOCK.get_or_init(|| PayloadBlock::new(plan.sizes.distribution.max_len(), 2048));
    let mut dialed = Vec::new();
    for conn in 0..2 {
        let mut done = dialer.start(poll.registry(), conn, conn, Instant::now());
        while done.is_none() {
            done = dialer.drive(poll.registry(), conn);
        }
        dialed.extend(done);
    }
    let mut event_loop = EventLoop::new(poll, schedule, dialer, None, shared, |_| {}).unwrap();
    for (conn, dialed) in dialed.into_iter().enumerate() {
        event_loop.add(SlotLoad::new(conn, &plan, block, schedule), dialed);
    }
    let mut answers = 0;
    let counted = allocation_counter::measure(|| answers = event_loop.run().unwrap().answers);
    assert_eq!(answers, packets);
    counted.count_total
}

#[test]
fn a_packet_needs_no_allocation() {
    // The first run allocates what the process keeps.
    allocations(100);
    let (few, many) = (allocations(1000), allocations(21_000));
    // A frame that is read in two parts is kept until the rest arrives. That is rare at this load.
    assert!(many < few + 500, "{few} allocations for 1,000 packets, {many} for 21,000");
}
