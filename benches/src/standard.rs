//! What is compared when nothing else is said: every way to use `pktconn`, and what is used without it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::{Regime, RegimeResult, ServerSpec, median};

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

/// The most CPU time that an echoed packet may cost `pktecho` with `--check`, as a ratio to the bare server in the same round:
/// the regimes, and the limit of the median. On a shared machine medians differ by up to 0.1 from run to run: try again.
const RATIO_LIMITS: [(&str, f64); 3] = [("1000x1", 1.15), ("64x1", 1.15), ("64x32", 1.20)];

/// The most resident memory that an idle connection may cost `pktecho` with `--check`, in bytes, before and after use.
pub const IDLE_LIMIT_BYTES: f64 = 1536.0;

/// How many connections that is measured with.
pub const IDLE_CHECK_CONNS: u32 = 2000;

/// The regimes that have a limit.
///
/// # Errors
///
/// None, as long as the table can be read.
pub fn checked_regimes() -> Result<Vec<Regime>> {
    RATIO_LIMITS.iter().map(|(regime, _)| regime.parse()).collect()
}

/// What the limits say about a regime: a line for each server but the first, or why the check fails.
///
/// # Errors
///
/// Names the server whose median ratio exceeds the limit of the regime, or the regime that has no limit.
pub fn check_ratios(result: &RegimeResult) -> Result<String> {
    let name = result.regime.to_string();
    let (_, limit) = RATIO_LIMITS
        .iter()
        .find(|(regime, _)| *regime == name)
        .with_context(|| format!("no limit for {name}"))?;
    let mut lines = Vec::new();
    for server in result.servers.iter().skip(1) {
        let ratio = median(server.rounds.iter().map(|round| round.ratio)).context("no round was measured")?;
        ensure!(
            ratio <= *limit,
            "{name}: {} has a ratio of {ratio:.3}, above the limit of {limit:.2}",
            server.name
        );
        lines.push(format!(
            "{name}: {} has a ratio of {ratio:.3}, within the limit of {limit:.2}",
            server.name
        ));
    }
    Ok(lines.join("\n"))
}

/// The servers of a check: the bare one, and `pktecho`.
///
/// # Errors
///
/// As [`standard_servers`].
pub fn checked_servers(executable: &Path) -> Result<Vec<ServerSpec>> {
    SERVERS[..2].iter().map(|server| spec(executable, server)).collect()
}

/// The standard set of servers, from the programs beside `executable`.
///
/// # Errors
///
/// Names the first program that is missing, and how to build it.
pub fn standard_servers(executable: &Path) -> Result<Vec<ServerSpec>> {
    SERVERS.iter().map(|server| spec(executable, server)).collect()
}

fn spec(executable: &Path, &(name, program, options): &(&str, &str, &[&str])) -> Result<ServerSpec> {
    let path = program_beside(executable, program)?;
    let program = path.into_os_string().into_string().ok().context("the path of a server is no text")?;
    let options = ["--listen", "127.0.0.1:0"].iter().chain(options).map(|&option| option.to_owned());
    Ok(ServerSpec { name: name.to_owned(), command: [program].into_iter().chain(options).collect() })
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
    use crate::ServerResult;
    use crate::report::tests::round;

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

    /// `pktecho` beside the bare server, which takes 1000 ns, in three rounds of these CPU times a packet.
    fn measured(regime: &str, cpu_ns: [f64; 3]) -> RegimeResult {
        let first = round(1000.0, 200).next_to(None);
        let server = |name: &str, rounds| ServerResult {
            name: name.to_owned(),
            command: Vec::new(),
            peak_rss_bytes: 1,
            rounds,
            half_rate_rounds: Vec::new(),
        };
        let pktecho = cpu_ns.map(|cpu_ns| round(cpu_ns, 200).next_to(Some(&first))).to_vec();
        RegimeResult {
            regime: regime.parse().unwrap(),
            sizes: "0-2048".parse().unwrap(),
            half_rate_per_s: None,
            servers: vec![server("bare", vec![first; 3]), server("pktecho", pktecho)],
        }
    }

    #[test]
    fn a_median_above_the_limit_fails_the_check_and_a_single_round_does_not() {
        let line = check_ratios(&measured("64x32", [1100.0, 1190.0, 9000.0])).unwrap();
        assert_eq!(line, "64x32: pktecho has a ratio of 1.190, within the limit of 1.20");
        let error = check_ratios(&measured("64x1", [1100.0, 1160.0, 9000.0])).unwrap_err();
        assert_eq!(error.to_string(), "64x1: pktecho has a ratio of 1.160, above the limit of 1.15");
        assert!(check_ratios(&measured("8x1", [1.0; 3])).is_err(), "it has no limit");
    }

    #[test]
    fn the_regimes_of_a_check_can_be_read() {
        assert_eq!(checked_regimes().unwrap().len(), RATIO_LIMITS.len());
    }

    #[test]
    fn the_standard_regimes_can_be_read() {
        for regime in STANDARD_REGIMES {
            assert_eq!(regime.parse::<Regime>().unwrap().to_string(), regime);
        }
    }
}
