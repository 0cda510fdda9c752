//! Servers and clients as processes, each pinned to a core. Both run for a whole workload.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::listening::parse_listening;
use crate::load::{CONNECTED_LINE, NotKeptUp};
use crate::plan::ServerSpec;

/// How long a server may take to print its address. Servers in language virtual machines need a second or two.
const START_LIMIT: Duration = Duration::from_secs(15);

/// How long a server may take to end after SIGTERM, before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The cores of the servers and of the client.
#[derive(Debug, Clone, Copy)]
pub struct Pinning {
    /// All servers share this core: only one of them has work at a time.
    pub server_core: usize,
    /// A different core, so that the client does not slow the server down.
    pub client_core: usize,
}

impl Pinning {
    /// Runs a command on both cores, so that a problem is reported before anything is measured.
    ///
    /// # Errors
    ///
    /// The cores are the same, one of them cannot be used, or `taskset` is missing.
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.server_core != self.client_core,
            "the server and the client need different cores, not both core {}",
            self.server_core
        );
        for core in [self.server_core, self.client_core] {
            let probe = pinned(core, "true").stdout(Stdio::null()).stderr(Stdio::null()).status();
            let status = probe.context(
                "cannot run taskset, which pins processes to cores; install the package util-linux",
            )?;
            ensure!(status.success(), "cannot use core {core}: the comparison needs two cores");
        }
        Ok(())
    }

    /// Runs `program` on the client's core to its end, and returns its standard output.
    ///
    /// # Errors
    ///
    /// The program cannot be run or fails; the error is its standard error. [`NotKeptUp`] if its exit code says so.
    pub fn run_client(&self, program: &str, arguments: &[String]) -> Result<String> {
        let output = pinned(self.client_core, program)
            .args(arguments)
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        client_output(program, output)
    }

    /// Starts `program` on the client's core, and waits until it has printed [`CONNECTED_LINE`].
    ///
    /// # Errors
    ///
    /// Those of [`run_client`](Self::run_client).
    pub fn hold_client(&self, program: &str, arguments: &[String]) -> Result<HeldClient> {
        let mut child = pinned(self.client_core, program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("the client has no standard output")?);
        let mut client = HeldClient { program: program.to_owned(), child, stdin, stdout };
        let line = client.read_line()?;
        ensure!(line == CONNECTED_LINE, "{program} printed {line:?} instead of {CONNECTED_LINE:?}");
        Ok(client)
    }
}

/// A client that is connected, and sends when it is told to. Dropping this ends it.
pub struct HeldClient {
    program: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl HeldClient {
    /// Lets the client run once, and returns its report.
    ///
    /// # Errors
    ///
    /// The client has failed; the error is its standard error. [`NotKeptUp`] if its exit code says so.
    pub fn run(&mut self, seed: u64) -> Result<String> {
        let stdin = self.stdin.as_mut().context("the client has no standard input")?;
        // If the client has ended, its error is read below.
        let _ = writeln!(stdin, "{seed}");
        self.read_line()
    }

    fn read_line(&mut self) -> Result<String> {
        let program = &self.program;
        let mut line = String::new();
        self.stdout.read_line(&mut line).with_context(|| format!("cannot read from {program}"))?;
        if line.is_empty() {
            let status = self.child.wait().with_context(|| format!("cannot run {program}"))?;
            let mut stderr = Vec::new();
            if let Some(mut pipe) = self.child.stderr.take() {
                pipe.read_to_end(&mut stderr).with_context(|| format!("cannot read from {program}"))?;
            }
            client_output(program, Output { status, stdout: Vec::new(), stderr })?;
            bail!("{program} ended without a report");
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for HeldClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The standard output of a client that has ended.
fn client_output(program: &str, output: Output) -> Result<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let reason = one_line(&stderr).unwrap_or_else(|| output.status.to_string());
        match output.status.code() {
            Some(code) if code == i32::from(NotKeptUp::EXIT_CODE) => bail!(NotKeptUp { reason }),
            _ => bail!(reason),
        }
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed invalid UTF-8"))
}

/// A command that runs `program` on `core`. `taskset` replaces itself, so the process id is that of `program`.
fn pinned(core: usize, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), program]).stdin(Stdio::null());
    command
}

/// Joins the lines of an error, so that it fits after the name of the server.
fn one_line(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    (!lines.is_empty()).then(|| lines.join(" / "))
}

/// A running server. Dropping this stops it.
#[derive(Debug)]
pub struct ServerProcess {
    name: String,
    child: Child,
    address: SocketAddr,
}

impl ServerProcess {
    /// Starts a server on its core, and waits for its line `listening on ADDR`.
    ///
    /// # Errors
    ///
    /// The server cannot be started, ends, or prints no address in time. The error names the server.
    pub fn start(spec: &ServerSpec, pinning: Pinning) -> Result<Self> {
        let (program, arguments) = spec.command.split_first().context("the server has no command")?;
        let mut child = pinned(pinning.server_core, program)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start server {:?}", spec.name))?;
        let stdout = child.stdout.take().context("the server has no standard output")?;
        let placeholder = SocketAddr::from(([0, 0, 0, 0], 0));
        // Created before the wait, so that dropping it also stops a server that prints no address.
        let mut server = Self { name: spec.name.clone(), child, address: placeholder };
        server.address = server.wait_for_address(stdout)?;
        Ok(server)
    }

    fn wait_for_address(&mut self, stdout: impl Read + Send + 'static) -> Result<SocketAddr> {
        let (address_sender, address) = mpsc::channel();
        thread::spawn(move || {
            // Reads to the end: otherwise a server that prints more would block on a full pipe.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(address) = parse_listening(&line) {
                    let _ = address_sender.send(address);
                }
            }
        });
        match address.recv_timeout(START_LIMIT) {
            Ok(address) => Ok(address),
            Err(RecvTimeoutError::Timeout) => {
                bail!("server {:?} did not print \"listening on ADDR\" within {START_LIMIT:?}", self.name)
            }
            Err(RecvTimeoutError::Disconnected) => match self.wait(STOP_LIMIT)? {
                Some(status) => bail!("server {:?} ended before it printed its address: {status}", self.name),
                None => bail!("server {:?} closed its output without printing its address", self.name),
            },
        }
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id, for CPU time and memory.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Checks that the server still runs.
    ///
    /// # Errors
    ///
    /// The server has ended; the error names the server and its exit status.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("server {:?} ended: {status}", self.name),
        }
    }

    /// Waits up to `limit` for the server to end; `None` if it still runs.
    fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let give_up_at = Instant::now() + limit;
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || Instant::now() >= give_up_at {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Until it is waited for, its id cannot belong to another process.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
        if !matches!(self.wait(STOP_LIMIT), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_several_lines_becomes_one() {
        assert_eq!(one_line("a: failed\n\n  try b\n"), Some("a: failed / try b".to_owned()));
        assert_eq!(one_line("\n"), None);
    }
}
