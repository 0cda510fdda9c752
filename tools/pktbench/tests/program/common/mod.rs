//! Runs the real program, and servers that speak the wire by hand and misbehave.

pub(crate) mod result;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use pktconn::{Addr, PacketServer, ServerConfig, ServerHandle};
use serde_json::Value;

/// Whether to assert times of the real clock, which a busy machine can break. `.ci/nightly times` sets
/// `PKTCONN_TIMES=1`.
pub(crate) fn asserts_times() -> bool {
    std::env::var_os("PKTCONN_TIMES").is_some_and(|value| value == "1")
}

/// What a run printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

/// The program with standard streams in pipes, and nothing of the environment that changes what it prints.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    command
}

/// Runs the program with the words of `args`.
pub(crate) fn pktbench(args: &str) -> Ran {
    ran(command(env!("CARGO_BIN_EXE_pktbench")).args(args.split_whitespace()))
}

pub(crate) fn ran(command: &mut Command) -> Ran {
    let output = command.output().expect("the program can be run");
    Ran {
        stdout: String::from_utf8(output.stdout).expect("standard output is text"),
        stderr: String::from_utf8(output.stderr).expect("standard error is text"),
        code: output.status.code(),
    }
}

impl Ran {
    /// The one document that was printed, after a check that its figures agree with each other.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        let document: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let count = |group: &str, name: &str| count(&document, group, name);
        let fates = ["verified", "altered", "reordered"].map(|fate| count("integrity", fate));
        let whole: u64 = fates.iter().sum();
        assert_eq!(
            whole + count("integrity", "lost") + count("integrity", "unanswered"),
            count("totals", "sent") + count("totals", "warmup_sent"),
            "what was sent has each a fate: {document}"
        );
        if count("totals", "warmup_sent") == 0 {
            let came_back = whole + count("integrity", "doubled");
            assert_eq!(came_back, count("totals", "received"), "{document}");
            assert_eq!(count("integrity", "verified"), samples(&document), "{document}");
        }
        assert_eq!(document["exit_code"].as_i64(), self.code.map(i64::from), "{document}");
        check_schema(&document);
        document
    }

    /// The one line on standard error, when nothing was printed besides.
    #[track_caller]
    pub(crate) fn error_line(&self) -> &str {
        assert_eq!(self.stdout, "", "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        self.stderr.trim_end()
    }
}

/// A count of the document.
#[track_caller]
pub(crate) fn count(document: &Value, group: &str, name: &str) -> u64 {
    document[group][name].as_u64().unwrap_or_else(|| panic!("no count {group}.{name} in {document}"))
}

/// Checks a document against the schema that users have, and that the schema has all of its fields.
#[track_caller]
pub(crate) fn check_schema(document: &Value) {
    let text = include_str!("../../../schema/pktbench-1.schema.json");
    let mut schema: Value = serde_json::from_str(text).expect("the schema is JSON");
    forbid_more(&mut schema);
    let validator = jsonschema::validator_for(&schema).expect("the schema is one");
    let errors: Vec<_> =
        validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:?} in {document}");
}

/// For users fields may be added; here each one is to be described.
fn forbid_more(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.contains_key("properties") {
                map.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            map.values_mut().for_each(forbid_more);
        }
        Value::Array(list) => list.iter_mut().for_each(forbid_more),
        _ => {}
    }
}

/// How many packets' latencies were taken.
pub(crate) fn samples(document: &Value) -> u64 {
    count(&document["latency_ns"], "service", "count")
}

/// An echo server on a thread of its own, until the end of the process.
pub(crate) fn start(addr: impl Into<Addr>, config: ServerConfig) -> (String, ServerHandle) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(PacketServer::bind_with(addr, config)).unwrap();
    let (addr, handle) = (server.local_addr().to_string(), server.handle());
    std::thread::spawn(move || {
        runtime.block_on(server.serve(|mut conn| async move {
            while let Some(packet) = conn.recv().await? {
                conn.send(packet).await?;
            }
            Ok(conn.close().await?)
        }))
    });
    (addr, handle)
}

/// What a server does when a packet has come.
pub(crate) enum Answer {
    /// Writes these bytes at once, and goes on.
    Bytes(Vec<u8>),
    /// Writes these bytes, and closes the connection.
    Last(Vec<u8>),
    /// Writes these bytes again and again, until the peer has closed.
    Flood(Vec<u8>),
}

/// The frame of a payload.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("payloads of tests are small");
    [&len.to_le_bytes(), payload].concat()
}

/// Serves each connection with a behaviour of its own, which is given the number of each packet and its whole frame.
pub(crate) fn serve<F>(behaviour: impl FnMut() -> F + Send + 'static) -> SocketAddr
where
    F: FnMut(u64, Vec<u8>) -> Answer + Send + 'static,
{
    serve_with_trailer(0, behaviour)
}

/// Serves frames that end with `trailer_len` bytes behind the payload, as a checksum is.
pub(crate) fn serve_with_trailer<F>(
    trailer_len: usize,
    mut behaviour: impl FnMut() -> F + Send + 'static,
) -> SocketAddr
where
    F: FnMut(u64, Vec<u8>) -> Answer + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    let addr = listener.local_addr().expect("a listener has an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let behaviour = behaviour();
            // A connection that breaks is what some of the tests are about.
            thread::spawn(move || serve_one(stream?, trailer_len, behaviour));
        }
    });
    addr
}

fn serve_one(
    mut stream: TcpStream,
    trailer_len: usize,
    mut behaviour: impl FnMut(u64, Vec<u8>) -> Answer,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A bound for a program that neither sends nor closes.
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    for number in 0.. {
        let mut header = [0; 4];
        stream.read_exact(&mut header)?;
        let mut frame = header.to_vec();
        frame.resize(4 + u32::from_le_bytes(header) as usize + trailer_len, 0);
        stream.read_exact(&mut frame[4..])?;
        match behaviour(number, frame) {
            Answer::Bytes(bytes) => stream.write_all(&bytes)?,
            Answer::Last(bytes) => {
                stream.write_all(&bytes)?;
                // Closing with unread bytes would reset the connection, and discard answers that are on their way.
                stream.shutdown(Shutdown::Write)?;
                return io::copy(&mut stream, &mut io::sink()).map(drop);
            }
            Answer::Flood(bytes) => loop {
                stream.write_all(&bytes)?;
            },
        }
    }
    Ok(())
}
