//! Processes on a core of their own: the servers, for as long as a regime lasts, and the client, once a round.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{NotKeptUp, ServerSpec};

/// How long a server may take to print its address; one that runs on a virtual machine takes a second or two.
const START_LIMIT: Duration = Duration::from_secs(15);

/// How long a server may take to end once it is asked to, before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The cores that the servers and the client run on.
#[derive(Debug, Clone, Copy)]
pub struct Pinning {
    /// All servers share it: only one of them has work at a time.
    pub server_core: usize,
    /// Not the same one, or the client's own work would slow the server down.
    pub client_core: usize,
}

impl Pinning {
    /// Tries both cores, so that a machine that cannot pin is told before anything is measured.
    ///
    /// # Errors
    ///
    /// When the cores are the same, one of them cannot be used, or `taskset` is missing.
    pub fn check(&self) -> Result<()> {
        ensure!(self.server_core != self.client_core, "the server and the client need a core each");
        for core in [self.server_core, self.client_core] {
            let probe = pinned(core, "true").stdout(Stdio::null()).stderr(Stdio::null()).status();
            let status =
                probe.context("cannot run taskset, which pins processes to cores (package util-linux)")?;
            ensure!(status.success(), "core {core} cannot be used: the comparison needs two cores");
        }
        Ok(())
    }

    /// Runs `program` on the client's core to its end, and gives back what it printed.
    ///
    /// # Errors
    ///
    /// When it cannot be run, or fails: with what it printed on standard error. [`NotKeptUp`] where its exit code says so.
    pub fn run_client(&self, program: &str, arguments: &[String]) -> Result<String> {
        let output = pinned(self.client_core, program)
            .args(arguments)
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let reason = one_line(&stderr).unwrap_or_else(|| output.status.to_string());
            match output.status.code() {
                Some(code) if code == i32::from(NotKeptUp::EXIT_CODE) => bail!(NotKeptUp { reason }),
                _ => bail!(reason),
            }
        }
        String::from_utf8(output.stdout).with_context(|| format!("{program} printed no text"))
    }
}

/// A command of `program` that runs on `core` alone, under its own process id.
fn pinned(core: usize, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), program]).stdin(Stdio::null());
    command
}

/// An error that fits behind the name of the server.
fn one_line(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    (!lines.is_empty()).then(|| lines.join(" / "))
}

/// A server that runs until this is dropped.
#[derive(Debug)]
pub struct ServerProcess {
    name: String,
    child: Child,
    address: SocketAddr,
}

impl ServerProcess {
    /// Starts a server on its core, and waits for its `listening on ADDR` line.
    ///
    /// # Errors
    ///
    /// When it cannot be started, ends, or prints no address in time. Each names the server.
    pub fn start(spec: &ServerSpec, pinning: Pinning) -> Result<Self> {
        let (program, arguments) = spec.command.split_first().context("a server needs a command")?;
        let mut child = pinned(pinning.server_core, program)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start server {:?}", spec.name))?;
        let stdout = child.stdout.take().context("the server has no standard output")?;
        let placeholder = SocketAddr::from(([0, 0, 0, 0], 0));
        // Made before the wait, so that a server without an address is stopped as well.
        let mut server = Self { name: spec.name.clone(), child, address: placeholder };
        server.address = server.wait_for_address(stdout)?;
        Ok(server)
    }

    fn wait_for_address(&mut self, stdout: impl Read + Send + 'static) -> Result<SocketAddr> {
        let (found, address) = mpsc::channel();
        thread::spawn(move || {
            // Read to its end: a server whose output nobody takes would stop at a full pipe.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(address) = parse_listening(&line) {
                    let _ = found.send(address);
                }
            }
        });
        match address.recv_timeout(START_LIMIT) {
            Ok(address) => Ok(address),
            Err(RecvTimeoutError::Timeout) => {
                bail!("server {:?} printed no \"listening on ADDR\" line within {START_LIMIT:?}", self.name)
            }
            Err(RecvTimeoutError::Disconnected) => match self.wait(STOP_LIMIT)? {
                Some(status) => bail!("server {:?} ended before it printed its address: {status}", self.name),
                None => bail!("server {:?} closed its output without printing its address", self.name),
            },
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process whose CPU time and memory count.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails once the server ended.
    ///
    /// # Errors
    ///
    /// Names the server and how it ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("server {:?} died: {status}", self.name),
        }
    }

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
        // An id of a process that was not waited for yet cannot belong to another one.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
        if !matches!(self.wait(STOP_LIMIT), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The address in a line such as `listening on 127.0.0.1:4000`, whatever follows it.
fn parse_listening(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("listening on ")?;
    after.split_whitespace().next()?.trim_end_matches([',', '.', ';']).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_what_follows_listening_on() {
        let address = Some("127.0.0.1:4000".parse().unwrap());
        assert_eq!(parse_listening("listening on 127.0.0.1:4000"), address);
        assert_eq!(parse_listening("INFO echo: listening on 127.0.0.1:4000, 1 thread"), address);
        assert_eq!(parse_listening("listening on [::1]:4000"), Some("[::1]:4000".parse().unwrap()));
        assert_eq!(parse_listening("listening on port 4000"), None);
        assert_eq!(parse_listening("starting"), None);
    }

    #[test]
    fn an_error_of_several_lines_becomes_one() {
        assert_eq!(one_line("a: failed\n\n  try b\n"), Some("a: failed / try b".to_owned()));
        assert_eq!(one_line("\n"), None);
    }
}
