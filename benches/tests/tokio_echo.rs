//! Each way to serve a connection echoes every byte.

#![forbid(unsafe_code)]

mod common;

use common::{Server, frame};

const KINDS: [&str; 6] = ["whole", "batches", "split", "handed-over", "framed-send", "framed-forward"];

#[test]
fn each_kind_echoes_every_frame() {
    let frames: Vec<u8> = [0, 1, 2048, 70_000, 0, 500_000].into_iter().flat_map(frame).collect();
    for kind in KINDS {
        let server = Server::start(env!("CARGO_BIN_EXE_tokio_echo_server"), &["--kind", kind]);
        assert!(server.echo([&frames[..]]) == frames, "{kind}");
        let (start, end) = frames.split_at(5);
        assert!(server.echo([start, end]) == frames, "{kind}, in two pieces");
    }
}
