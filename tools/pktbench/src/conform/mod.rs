//! `pktbench conform`: tests whether a server echoes valid packets and rejects malformed ones.
//!
//! ```text
//!   options -> cases, one after the other -> client <-> server
//!                                              '-> report, one row per case -> exit code
//! ```
//!
//! The server must echo packets; it can be written in any language. TLS is not supported.

mod cases;
mod client;
mod options;
mod report;
mod wire;

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Context;
use client::Server;
pub(crate) use options::{Options, TestPlan};
use pktconn_tools::printable;
use report::{CaseResult, Report};

use crate::result::verdict::OUTPUT_CLOSED;

/// After so many cases in a row without a byte from the server, the test asks whether it answers at all. Every case may
/// take the whole `--timeout`, and there are about 100.
const SILENT_CASES: usize = 3;

/// Tests a server and prints the report. The exit code is 0 if all cases pass, otherwise 1.
pub(crate) fn run(plan: TestPlan) -> anyhow::Result<ExitCode> {
    let name = plan.addr.to_string();
    let server = Server::new(plan.addr, plan.timeout)?;
    // A server that cannot be reached is one error, rather than a failure of every case.
    server.connect().map_err(|error| {
        anyhow::anyhow!("cannot connect to {name}: {error}; start the server, or correct the address")
    })?;
    let mut report = Report::new(name);
    let frames = wire::Frames::new(plan.format);
    let mut silent_cases = 0;
    let mut cases = cases::cases(frames).peekable();
    while let Some(case) = cases.next() {
        let outcome = server.run_case(&case);
        let silence = outcome.as_ref().err().filter(|failure| failure.got.is_empty());
        silent_cases = if silence.is_some() { silent_cases + 1 } else { 0 };
        let is_asked = silent_cases % SILENT_CASES == 0 && cases.peek().is_some();
        if let Some(silence) = silence.filter(|_| is_asked) {
            // It may be silent for a good reason, after malformed frames: then it still answers a correct packet.
            if report.has_none_passed() || server.echoes(&frames.frame(0, 5)).is_err() {
                report.give_up(format!(
                    "the server answers nothing ({}); check the address, --header and --crc",
                    silence.detail
                ));
            }
        }
        let result = CaseResult::new(case, outcome);
        if !plan.json && !print(&printable::line(&result.row()))? {
            return Ok(ExitCode::from(OUTPUT_CLOSED));
        }
        report.add(result);
        if report.has_given_up() {
            report.not_run = cases.count();
            break;
        }
    }
    print(&if plan.json { report.json() } else { printable::line(&report.summary()).into_owned() })?;
    Ok(if report.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns whether standard output still has a reader.
fn print(line: &str) -> anyhow::Result<bool> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true).context("cannot print the result"),
    }
}
