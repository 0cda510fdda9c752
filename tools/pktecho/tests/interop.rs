//! Programs that others wrote speak to the server.

mod common;

use std::process::Command;

use common::Server;

#[test]
#[ignore = "needs escript (package erlang-base): cargo test -p pktecho -- --include-ignored"]
fn erlang_speaks_to_it_by_its_own_framing() {
    for (header, bytes) in [("u32be", "4"), ("u16be", "2")] {
        let server = Server::start(&["--header", header]);
        let (host, port) = server.addr.rsplit_once(':').unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/erlang_client.escript");
        let output = Command::new("escript").args([script, host, port, bytes]).output().unwrap();
        assert!(output.status.success(), "{header}: {output:?}");
    }
}
