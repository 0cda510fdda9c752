//! The default servers and regimes: every way to use `pktconn`, and the common alternative, `LengthDelimitedCodec`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::server::ServerSpec;
use super::workload::WorkloadKind;

/// Name, program and options of a server.
type Server = (&'static str, &'static str, &'static [&'static str]);

const BARE: Server = ("bare", "bare_epoll_server", &[]);
const PKTECHO: Server = ("pktecho", "pktecho", &["--threads", "1"]);
const FRAMED: Server = ("LengthDelimitedCodec send", "tokio_echo_server", &["--kind", "framed-send"]);

/// The servers of each kind of workload. The others are compared with the first one. `{cert}` and `{key}` stand for PEM
/// files.
const ECHO_SERVERS: [Server; 7] = [
    BARE,
    PKTECHO,
    ("one by one", "tokio_echo_server", &["--kind", "whole"]),
    ("split", "tokio_echo_server", &["--kind", "split"]),
    ("handed over", "tokio_echo_server", &["--kind", "handed-over"]),
    FRAMED,
    ("LengthDelimitedCodec forward", "tokio_echo_server", &["--kind", "framed-forward"]),
];
const SHORT_SERVERS: [Server; 3] = [BARE, PKTECHO, FRAMED];
const TLS_OPTIONS: &[&str] = &["--tls-cert", "{cert}", "--tls-key", "{key}"];
const TLS_SERVERS: [Server; 2] = [
    ("tokio-rustls", "tokio_rustls_server", TLS_OPTIONS),
    ("pktecho", "pktecho", &["--threads", "1", "--tls-cert", "{cert}", "--tls-key", "{key}"]),
];

/// All connections come from one address, so the limits for each address are off.
const EDGE_SERVERS: [Server; 2] = [
    (
        "pktecho without limits",
        "pktecho",
        &["--threads", "1", "--memory-budget", "off", "--max-conns", "off"],
    ),
    (
        "pktecho --edge",
        "pktecho",
        &["--threads", "1", "--edge", "--max-conns-per-ip", "off", "--conn-rate-per-ip", "off"],
    ),
];

/// Many connections with few packets, few connections, many packets outstanding, and large packets; short connections;
/// TLS; limits.
pub const STANDARD_WORKLOADS: [&str; 11] = [
    "1000x1",
    "64x1",
    "64x32",
    "8x4:1048576-1048576",
    "short:64x1",
    "tls:64x1",
    "tls:64x32",
    "tls:500x1",
    "edge:64x1",
    "edge:64x32",
    "edge:1000x1",
];

/// The servers of `--check`: the reference of this kind of workload, and `pktecho`. `executable` is the path of the
/// running program.
///
/// # Errors
///
/// A program is missing.
pub fn checked_servers(executable: &Path, kind: WorkloadKind) -> Result<Vec<ServerSpec>> {
    servers(kind)[..2].iter().map(|server| spec(executable, server)).collect()
}

/// All default servers of this kind of workload. `executable` is the path of the running program.
///
/// # Errors
///
/// A program is missing.
pub fn standard_servers(executable: &Path, kind: WorkloadKind) -> Result<Vec<ServerSpec>> {
    servers(kind).iter().map(|server| spec(executable, server)).collect()
}

fn servers(kind: WorkloadKind) -> &'static [Server] {
    match kind {
        WorkloadKind::Echo => &ECHO_SERVERS,
        WorkloadKind::Tls => &TLS_SERVERS,
        WorkloadKind::Edge => &EDGE_SERVERS,
        WorkloadKind::Short => &SHORT_SERVERS,
    }
}

fn spec(executable: &Path, &(name, program, options): &Server) -> Result<ServerSpec> {
    let path = program_beside(executable, program)?;
    let program =
        path.into_os_string().into_string().ok().context("the path of a server is not valid UTF-8")?;
    let options = ["--listen", "127.0.0.1:0"].iter().chain(options).map(|&option| option.to_owned());
    Ok(ServerSpec { name: name.to_owned(), command: [program].into_iter().chain(options).collect() })
}

/// The path of `program` in the folder of `executable`, where Cargo puts all programs of one profile.
///
/// # Errors
///
/// The program is missing; the error names the command that builds it.
pub fn program_beside(executable: &Path, program: &str) -> Result<PathBuf> {
    let path = executable.with_file_name(program);
    if path.is_file() {
        return Ok(path);
    }
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let profile = match &*folder {
        "debug" => String::new(),
        "release" => " --release".to_owned(),
        other => format!(" --profile {other}"),
    };
    bail!(
        "{} is missing; build it with: cargo build{profile} -p pktconn-benches -p pktecho -p pktbench",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::*;
    use crate::plan::Workload;

    /// Creates a folder like `target/PROFILE` with empty files of these names.
    fn folder(profile: &str, programs: &[&str]) -> PathBuf {
        let folder =
            env::temp_dir().join(format!("standard-servers-{profile}-{}", process::id())).join(profile);
        fs::create_dir_all(&folder).unwrap();
        programs.iter().for_each(|program| fs::write(folder.join(program), "").unwrap());
        folder
    }

    #[test]
    fn the_programs_are_in_the_folder_of_the_executable() {
        let folder =
            folder("complete", &["bare_epoll_server", "pktecho", "tokio_echo_server", "tokio_rustls_server"]);
        let standard = |kind| standard_servers(&folder.join("echo_compare"), kind).unwrap();
        let tls = standard(WorkloadKind::Tls);
        assert!(tls.iter().all(|server| server.command.iter().any(|word| word == "{cert}")));
        assert_eq!(standard(WorkloadKind::Short).len(), SHORT_SERVERS.len());
        let servers = standard(WorkloadKind::Echo);
        assert_eq!(servers.len(), ECHO_SERVERS.len());
        assert_eq!(servers[0].name, "bare");
        let pktecho = folder.join("pktecho").into_os_string().into_string().unwrap();
        assert_eq!(servers[1].command, [&*pktecho, "--listen", "127.0.0.1:0", "--threads", "1"]);
        assert!(servers.iter().all(|server| !server.has_checksum()));
        fs::remove_dir_all(folder.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_missing_program_is_named_with_the_command_that_builds_it() {
        for (profile, option) in [("debug", ""), ("release", " --release"), ("fast", " --profile fast")] {
            let folder = folder(profile, &["bare_epoll_server"]);
            let error =
                standard_servers(&folder.join("echo_compare"), WorkloadKind::Echo).unwrap_err().to_string();
            let path = folder.join("pktecho");
            let command = format!("cargo build{option} -p pktconn-benches -p pktecho -p pktbench");
            assert_eq!(error, format!("{} is missing; build it with: {command}", path.display()));
            fs::remove_dir_all(folder.parent().unwrap()).unwrap();
        }
    }

    #[test]
    fn the_standard_workloads_are_valid() {
        for workload in STANDARD_WORKLOADS {
            assert_eq!(workload.parse::<Workload>().unwrap().to_string(), workload);
        }
    }
}
