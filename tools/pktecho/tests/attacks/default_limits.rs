//! The server without options that limit it: it limits itself by what its machine has.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::attack::Attack;
use crate::client::Client;
use crate::common::Server;
use crate::healthy::Healthy;
use crate::limits::{MIB, SECOND, alone};
use crate::process::peak_resident_bytes;

const ATTACKERS: usize = 60;

/// Each attacker sends a frame of 32 MiB without its last byte. Their memory must stay within `budget`.
fn sixty_large_frames(what: &str, server: &Server, budget: u64) {
    let mut frame = vec![7; 4 + (32 << 20) - 1];
    frame[..4].copy_from_slice(&(32_u32 << 20).to_le_bytes());
    let total = frame.len() * ATTACKERS;
    let healthy = Healthy::start(&Client::new(server).elsewhere());
    // As fast as the server reads.
    let attack = Attack { bytes_per_second: 1 << 30, ..Attack::new(&Client::new(server), ATTACKERS, frame) };
    let attack = attack.start();
    let give_up_at = Instant::now() + 8 * SECOND;
    while attack.progress().0 < total as u64 && Instant::now() < give_up_at {
        healthy.expect_answers(1);
    }
    healthy.expect_answers(100);
    let (peak, attacked) = (peak_resident_bytes(server), attack.stop());
    eprintln!("{what}: peak of {} MiB, budget of {} MiB; {attacked}", peak / MIB, budget / MIB);
    assert!(peak <= budget + 32 * MIB, "{what}: peak of {peak} bytes");
    healthy.p99();
}

/// The memory of the machine, or of the container if that is less.
fn memory_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let total = line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024;
    // Versions 2 and 1 of cgroups. Version 2 says `max` if there is no limit.
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = limits.iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    limits.chain([total]).min().unwrap()
}

/// The shell command of a server without limits that prints everything to one stream.
fn command() -> String {
    format!("exec {} --listen 127.0.0.1:0 2>&1", env!("CARGO_BIN_EXE_pktecho"))
}

fn assert_prints_limits(server: Server) {
    let mut printed = server.first_lines.concat();
    server.signal("TERM");
    printed += &server.finish();
    assert!(printed.contains("limits: "), "the server prints its limits: {printed}");
}

#[test]
#[ignore = "needs 5 s and 2 GiB of memory: cargo test --release -p pktecho -- --include-ignored"]
fn without_options_large_frames_stay_within_a_quarter_of_the_memory() {
    let _alone = alone();
    let server = Server::spawn(Command::new("sh").args(["-c", &command()]));
    sixty_large_frames("60 large frames without options", &server, memory_bytes() / 4);
    assert_prints_limits(server);
}

/// A mount namespace shows the server a machine with less memory. Not every system lets users create one.
#[test]
#[ignore = "needs 5 s and user namespaces: cargo test --release -p pktecho -- --include-ignored"]
fn without_options_large_frames_stay_within_a_quarter_of_a_small_memory() {
    const MEMORY_KB: u64 = 1 << 20;
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let meminfo = dir.path().join("meminfo");
    let available = MEMORY_KB / 4 * 3;
    let text = format!("MemTotal: {MEMORY_KB} kB\nMemFree: {available} kB\nMemAvailable: {available} kB\n");
    fs::write(&meminfo, text).unwrap();
    let script = |command: &str| format!("mount --bind {} /proc/meminfo && {command}", meminfo.display());
    let unshare = ["--user", "--map-root-user", "--mount", "sh", "-c"];
    let probe = Command::new("unshare").args(unshare).arg(script("true")).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this system does not let users create mount namespaces");
        return;
    }
    let server = Server::spawn(Command::new("unshare").args(unshare).arg(script(&command())));
    sixty_large_frames("60 large frames with 1 GiB of memory", &server, MEMORY_KB * 1024 / 4);
    assert_prints_limits(server);
}

#[test]
#[ignore = "needs 5 s and an otherwise idle machine: cargo test --release -p pktecho -- --include-ignored"]
fn large_frames_stay_within_the_memory_budget() {
    let _alone = alone();
    let server = Server::start(&["--memory-budget", "256MiB"]);
    sixty_large_frames("60 large frames with a budget", &server, 256 * MIB);
}
