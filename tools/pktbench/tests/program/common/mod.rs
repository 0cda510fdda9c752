//! Runs the real program, and servers that write their frames by hand and can misbehave.

pub(crate) mod pcap;

pub(crate) mod result;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use pktconn::{Addr, PacketServer, ServerConfig, ServerHandle};
use serde_json::Value;

/// Whether to assert times of the real clock, which fails on a busy machine. `.ci/nightly times` sets
/// `PKTCONN_TIMES=1`.
pub(crate) fn asserts_times() -> bool {
    std::env::var_os("PKTCONN_TIMES").is_some_and(|value| value == "1")
}

/// A process that is killed when the value is dropped.
pub(crate) struct KillOnDrop(pub(crate) Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The output of a run and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

/// A command with its output in pipes, and without environment variables that change the output.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    command
}

/// Runs `pktbench` with the words of `args`.
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

/// The most CPU time. A busy machine does not change it, but a build without optimization needs more than 1 s.
fn max_seconds() -> f64 {
    if asserts_times() { 1.0 } else { 20.0 }
}

/// Runs `pktbench` within 64 MiB of memory, and checks its CPU time.
#[track_caller]
pub(crate) fn bounded(args: &[&str]) -> Ran {
    // `-d` counts private memory that can be written: heap and stacks. It has no effect on macOS.
    let script = "ulimit -d 65536; \"$0\" \"$@\"; code=$?; times >&2; exit $code";
    let mut ran = ran(command("sh").args(["-c", script, env!("CARGO_BIN_EXE_pktbench")]).args(args));
    // The last line has the times of the program: user and system, such as 0m0.012s.
    let (rest, times) = ran.stderr.trim_end().rsplit_once('\n').expect("the shell prints times");
    let seconds = |time: &str| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').unwrap();
        minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
    };
    let seconds: f64 = times.split_whitespace().map(seconds).sum();
    assert!(seconds < max_seconds(), "{args:?}: {seconds} s");
    // The line before is that of the shell itself.
    let stderr = rest.rsplit_once('\n').map_or("", |(stderr, _)| stderr);
    ran.stderr = if stderr.is_empty() { String::new() } else { format!("{stderr}\n") };
    ran
}

impl Ran {
    /// The printed document, after a check that it matches the schema and that its counts are consistent.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        let document: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let count = |group: &str, name: &str| count(&document, group, name);
        let answered = ["verified", "corrupted", "reordered"].map(|name| count("integrity", name));
        let answered: u64 = answered.iter().sum();
        assert_eq!(
            answered + count("integrity", "lost") + count("integrity", "unanswered"),
            count("totals", "sent") + count("totals", "warmup_sent"),
            "every sent packet is counted once: {document}"
        );
        if count("totals", "warmup_sent") == 0 {
            assert_eq!(answered, count("totals", "received") + count("totals", "drained"), "{document}");
            assert_eq!(count("integrity", "verified"), samples(&document), "{document}");
        }
        assert_eq!(document["exit_code"].as_i64(), self.code.map(i64::from), "{document}");
        check_schema(&document);
        document
    }

    /// The line on standard error, after a check that it is the only output.
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

/// Checks that a document matches the published schema, and that the schema describes all of its fields.
#[track_caller]
pub(crate) fn check_schema(document: &Value) {
    let text = include_str!("../../../schema/pktbench-2.schema.json");
    let mut schema: Value = serde_json::from_str(text).expect("the schema is JSON");
    forbid_more(&mut schema);
    let validator = jsonschema::validator_for(&schema).expect("the schema is valid");
    let errors: Vec<_> =
        validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:?} in {document}");
}

/// Makes the schema reject unknown fields. The published schema allows them, so that fields can be added.
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

/// Checks that the verdict is a pass. On a busy machine the load generator may have been saturated.
#[track_caller]
pub(crate) fn assert_passed(document: &Value) {
    assert!(document["verdict"] == "pass" || document["verdict"] == "pass_saturated", "{document}");
}

/// The number of latency samples.
pub(crate) fn samples(document: &Value) -> u64 {
    count(&document["latency_ns"], "service", "count")
}

/// Starts an echo server on its own thread. It runs until the end of the process.
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

/// What a server does after it has received a packet.
pub(crate) enum Answer {
    /// Writes these bytes and continues.
    Bytes(Vec<u8>),
    /// Writes these bytes and closes the connection.
    Last(Vec<u8>),
    /// Writes these bytes repeatedly until the client has closed the connection.
    Flood(Vec<u8>),
}

/// The frame of a payload: a u32 LE length and the payload.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("payloads of tests are small");
    [&len.to_le_bytes(), payload].concat()
}

/// Starts a server. `behaviour` returns a function for each connection, which gets the number of each packet and its
/// frame.
pub(crate) fn serve<F>(behaviour: impl FnMut() -> F + Send + 'static) -> SocketAddr
where
    F: FnMut(u64, Vec<u8>) -> Answer + Send + 'static,
{
    serve_with_trailer(0, behaviour)
}

/// Like [`serve`], for frames that have `trailer_len` bytes after the payload, such as a checksum.
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
            // Errors are ignored: some tests break connections on purpose.
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
    // Ends the thread if the program neither sends nor closes.
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
