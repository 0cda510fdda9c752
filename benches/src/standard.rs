//! What is compared when nothing else is said: every way to use `pktconn`, and what is used without it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::ServerSpec;

/// Name, program and options of each server; the first is what the others are compared with.
const SERVERS: [(&str, &str, &[&str]); 7] = [
    ("bare", "bare_epoll_server", &[]),
    ("pktecho", "pktecho", &["--threads", "1"]),
    ("one by one", "tokio_echo_server", &["--kind", "whole"]),
    ("split", "tokio_echo_server", &["--kind", "split"]),
    ("handed over", "tokio_echo_server", &["--kind", "handed-over"]),
    ("LengthDelimitedCodec send", "tokio_echo_server", &["--kind", "framed-send"]),
    ("LengthDelimitedCodec forward", "tokio_echo_server", &["--kind", "framed-forward"]),
];

/// Few packets on many connections, on few, many at a time, and large ones.
pub const STANDARD_REGIMES: [&str; 4] = ["1000x1", "64x1", "64x32", "8x4:1048576-1048576"];

/// The standard set of servers, from the programs beside `executable`.
///
/// # Errors
///
/// Names the first program that is missing, and how to build it.
pub fn standard_servers(executable: &Path) -> Result<Vec<ServerSpec>> {
    let spec = |&(name, program, options): &(&str, &str, &[&str])| {
        let path = program_beside(executable, program)?;
        let program = path.into_os_string().into_string().ok().context("the path of a server is no text")?;
        let options = ["--listen", "127.0.0.1:0"].iter().chain(options).map(|&option| option.to_owned());
        Ok(ServerSpec { name: name.to_owned(), command: [program].into_iter().chain(options).collect() })
    };
    SERVERS.iter().map(spec).collect()
}

/// The program that Cargo put into the folder of `executable`: all those of one profile share it.
///
/// # Errors
///
/// When it is missing: how to build it.
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
    bail!("{} is missing: cargo build{profile} -p pktconn-benches -p pktecho", path.display())
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::*;
    use crate::Regime;

    /// A folder `target/PROFILE` of its own, with files of these names.
    fn folder(profile: &str, programs: &[&str]) -> PathBuf {
        let folder =
            env::temp_dir().join(format!("standard-servers-{profile}-{}", process::id())).join(profile);
        fs::create_dir_all(&folder).unwrap();
        programs.iter().for_each(|program| fs::write(folder.join(program), "").unwrap());
        folder
    }

    #[test]
    fn the_programs_are_those_beside_the_executable() {
        let folder = folder("complete", &["bare_epoll_server", "pktecho", "tokio_echo_server"]);
        let servers = standard_servers(&folder.join("echo_compare")).unwrap();
        assert_eq!(servers.len(), SERVERS.len());
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
            let error = standard_servers(&folder.join("echo_compare")).unwrap_err().to_string();
            let path = folder.join("pktecho");
            let command = format!("cargo build{option} -p pktconn-benches -p pktecho");
            assert_eq!(error, format!("{} is missing: {command}", path.display()));
            fs::remove_dir_all(folder.parent().unwrap()).unwrap();
        }
    }

    #[test]
    fn the_standard_regimes_can_be_read() {
        for regime in STANDARD_REGIMES {
            assert_eq!(regime.parse::<Regime>().unwrap().to_string(), regime);
        }
    }
}
