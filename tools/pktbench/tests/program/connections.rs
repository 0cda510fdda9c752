//! Connections as load: how they are opened, closed and replaced, and which addresses they use.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::common::{Answer, count, pktbench, serve, start};
use pktconn::ServerConfig;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

/// An echo server that counts its connections.
fn counting() -> (String, Arc<AtomicUsize>) {
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    let addr = serve(move || {
        counter.fetch_add(1, Relaxed);
        |_, frame| Answer::Bytes(frame)
    });
    (addr.to_string(), accepted)
}

#[test]
fn a_connection_is_closed_after_its_packets_and_replaced() {
    let (addr, accepted) = counting();
    let ran = pktbench(&format!("--connect {addr} --conns 3 --conn-packets 10 --packets 300 --json"));
    let document = ran.document();
    assert_eq!(ran.code, Some(0), "{document}");
    assert_eq!(count(&document, "integrity", "verified"), 300);
    assert_eq!(count(&document, "connections", "opened"), 30);
    assert_eq!(count(&document, "connections", "replaced"), 27);
    assert_eq!(accepted.load(Relaxed), 30);
    // The first three were opened before the load.
    assert_eq!(document["connections"]["connect_ns"]["count"], 27);
    assert_eq!(document["connections"]["missed"], Value::Null);
}

#[test]
fn a_connection_is_closed_after_its_lifetime_also_if_it_is_idle() {
    let (addr, accepted) = counting();
    for load in ["--pipeline 2", "--rate 4"] {
        let before = accepted.load(Relaxed);
        let ran = pktbench(&format!(
            "--connect {addr} --conns 2 --conn-lifetime 100ms --warmup 0 --duration 2s --json {load}"
        ));
        let document = ran.document();
        assert_eq!(ran.code, Some(0), "{document}");
        let opened = count(&document, "connections", "opened");
        assert!((10..=42).contains(&opened), "{load}: {document}");
        // The server may accept the last one after it was closed.
        let give_up_at = Instant::now() + Duration::from_secs(30);
        while accepted.load(Relaxed) - before != opened as usize {
            assert!(Instant::now() < give_up_at, "{} accepted: {document}", accepted.load(Relaxed) - before);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn an_open_loop_of_connections_opens_them_at_its_rate_and_says_how_many_it_missed() {
    let (addr, accepted) = counting();
    let ran = pktbench(&format!(
        "--connect {addr} --conns-per-second 200 --conn-packets 5 --warmup 0 --duration 2s --json"
    ));
    let document = ran.document();
    assert_eq!(ran.code, Some(0), "{document}");
    assert_eq!(count(&document, "connections", "missed"), 0);
    assert_eq!(document["offered"]["asked"], 400, "{document}");
    assert_eq!(document["connections"]["connect_ns"]["count"], 400);
    assert!(accepted.load(Relaxed) as u64 >= 400);

    // Each connection lasts for half a second, so two of them make four per second.
    let ran = pktbench(&format!(
        "--connect {addr} --conns-per-second 20 --conn-lifetime 500ms --conns 2 --warmup 0 --duration 2s --json"
    ));
    let document = ran.document();
    assert_eq!((ran.code, &document["verdict"]), (Some(6), &json!("not_offered")), "{document}");
    assert!(count(&document, "connections", "missed") >= 25, "{document}");
    assert_eq!(document["offered"]["limit"], "window");
}

#[test]
fn connections_can_be_judged() {
    let (addr, _) = counting();
    let run = |condition: &str| {
        let load = "--conns 2 --conn-packets 5 --packets 100 --json --threshold";
        pktbench(&format!("--connect {addr} {load} {condition}")).code
    };
    assert_eq!(run("connects>=20"), Some(0));
    assert_eq!(run("connects>20"), Some(99));
    assert_eq!(run("connect_p99<10s"), Some(0));
    assert_eq!(run("connect_max<1ns"), Some(99));
    assert_eq!(run("handshake_p99<10s"), Some(99), "there is no TLS");
}

#[test]
fn connections_come_from_the_source_addresses() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let sources = std::thread::spawn(move || {
        let mut sources: Vec<_> = (0..4)
            .map(|_| {
                let (mut stream, from) = listener.accept().unwrap();
                std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
                from.ip().to_string()
            })
            .collect();
        sources.sort();
        sources
    });
    let load = "--source-addr 127.0.0.2,127.0.0.3 --conns 4 --packets 40";
    assert_eq!(pktbench(&format!("--connect {addr} {load}")).code, Some(0));
    assert_eq!(sources.join().unwrap(), ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"]);
}

#[test]
fn the_addresses_of_a_name_are_loaded_evenly_and_shown_one_by_one() {
    let servers = [(); 2].map(|()| start("127.0.0.1:0", ServerConfig::new()));
    let pinned: Vec<_> = servers.iter().map(|(addr, _)| format!("--connect-to {addr}")).collect();
    let connect = format!("--connect nowhere.invalid:80 {}", pinned.join(" "));
    let ran = pktbench(&format!("{connect} --conns 6 --packets 600 --json"));
    let document = ran.document();
    assert_eq!(ran.code, Some(0), "{document}");
    for ((addr, handle), result) in servers.iter().zip(document["addresses"].as_array().unwrap()) {
        assert_eq!((&result["address"], &result["opened"]), (&json!(addr), &json!(3)));
        assert_eq!((&result["sent"], &result["received"]), (&json!(300), &json!(300)));
        assert_eq!(result["latency_ns"]["service"]["count"], 300);
        assert_eq!(handle.stats().accepted, 3);
    }
    let text = pktbench(&format!("{connect} --conns 6 --packets 600")).stdout;
    assert!(text.contains(&format!("addresses   {}: 3 connections, ", servers[0].0)), "{text}");
}

#[test]
fn a_dead_address_is_reported_and_the_others_are_loaded() {
    let (addr, _) = start("127.0.0.1:0", ServerConfig::new());
    // Bound, so that no other program listens on the port, and not listening.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    let dead = socket.local_addr().unwrap().as_socket().unwrap();
    let connect = format!("--connect nowhere.invalid:80 --connect-to {addr} --connect-to {dead}");
    let ran = pktbench(&format!("{connect} --conns 4 --warmup 0 --duration 1s --json"));
    let document = ran.document();
    assert_eq!((ran.code, &document["verdict"]), (Some(1), &json!("failed")), "{document}");
    let warning = format!("warning: cannot connect to {dead}: ");
    assert!(
        ran.stderr.starts_with(&warning) && ran.stderr.contains("2 connections are missing"),
        "{}",
        ran.stderr
    );
    let [live, gone] = [0, 1].map(|index| &document["addresses"][index]);
    assert_eq!((&live["opened"], &live["failed"]), (&json!(2), &json!(0)), "{document}");
    assert!(live["received"].as_u64() > Some(0), "{document}");
    assert_eq!((&gone["opened"], &gone["received"]), (&json!(0), &json!(0)), "{document}");
    let down_pct = document["connections"]["down_pct"].as_f64().unwrap();
    assert!((49.0..=50.1).contains(&down_pct), "two of four connections are missing: {down_pct}");
    assert!(gone["first_error"].as_str().unwrap().contains("cannot connect"), "{document}");

    let ran =
        pktbench(&format!("--connect nowhere.invalid:80 --connect-to {dead} --connect-to {dead} --conns 4"));
    assert_eq!(ran.code, Some(1), "no address is alive");
    assert!(ran.error_line().contains("cannot connect to"), "{}", ran.stderr);
}
