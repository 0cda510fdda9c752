//! Loads servers that use other implementations of the wire format.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::common::{KillOnDrop, command, count, pktbench};

#[test]
#[ignore = "needs escript (package erlang-base): cargo test -p pktbench -- --include-ignored"]
fn an_erlang_server_with_packet_framing_is_loaded() {
    for (header, bytes) in [("u32be", "4"), ("u16be", "2")] {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/erlang_server.escript");
        let mut server =
            KillOnDrop(command("escript").args([script, bytes]).stderr(Stdio::inherit()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.strip_prefix("listening on ").expect("the first line names the address");
        let load = "--conns 4 --pipeline 8 --packets 2000 --sizes 0-3000 --json";
        let ran = pktbench(&format!("--connect {addr} --header {header} {load}"));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let document = ran.document();
        assert_eq!(document["config"]["header"], header);
        assert_eq!(count(&document, "integrity", "verified"), 2000);
    }
}
