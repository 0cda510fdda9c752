//! The default servers and regimes: every way to use `pktconn`, and the common alternative, `LengthDelimitedCodec`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::server::ServerSpec;

/// Name, program and options of each server. The others are compared with the first one.
const SERVERS: [(&str, &str, &[&str]); 7] = [
    ("bare", "bare_epoll_server", &[]),
    ("pktecho", "pktecho", &["--threads", "1"]),
    ("one by one", "tokio_echo_server", &["--kind", "whole"]),
    ("split", "tokio_echo_server", &["--kind", "split"]),
    ("handed over", "tokio_echo_server", &["--kind", "handed-over"]),
    ("LengthDelimitedCodec send", "tokio_echo_server", &["--kind", "framed-send"]),
    ("LengthDelimitedCodec forward", "tokio_echo_server", &["--kind", "framed-forward"]),
];

/// Many connections with few packets, few connections, many packets outstanding, and large packets.
pub const STANDARD_REGIMES: [&str; 4] = ["1000x1", "64x1", "64x32", "8x4:1048576-1048576"];

/// The servers of `--check`: the bare server and `pktecho`. `executable` is the path of the running program.
///
/// # Errors
///
/// A program is missing.
pub fn checked_servers(executable: &Path) -> Result<Vec<ServerSpec>> {
    SERVERS[..2].iter().map(|server| spec(executable, server)).collect()
}

/// All default servers. `executable` is the path of the running program.
///
/// # Errors
///
/// A program is missing.
pub fn standard_servers(executable: &Path) -> Result<Vec<ServerSpec>> {
    SERVERS.iter().map(|server| spec(executable, server)).collect()
}

fn spec(executable: &Path, &(name, program, options): &(&str, &str, &[&str])) -> Result<ServerSpec> {
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
    use crate::plan::Regime;

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
            let command = format!("cargo build{option} -p pktconn-benches -p pktecho -p pktbench");
            assert_eq!(error, format!("{} is missing; build it with: {command}", path.display()));
            fs::remove_dir_all(folder.parent().unwrap()).unwrap();
        }
    }

    #[test]
    fn the_standard_regimes_are_valid() {
        for regime in STANDARD_REGIMES {
            assert_eq!(regime.parse::<Regime>().unwrap().to_string(), regime);
        }
    }
}
