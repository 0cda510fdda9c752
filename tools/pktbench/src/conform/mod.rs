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
use report::{CaseResult, Report};

use crate::result::verdict::OUTPUT_CLOSED;

/// Tests a server and prints the report. The exit code is 0 if all cases pass, otherwise 1.
pub(crate) fn run(plan: TestPlan) -> anyhow::Result<ExitCode> {
    let name = plan.addr.to_string();
    let server = Server::new(plan.addr, plan.timeout)?;
    // A server that cannot be reached is one error, rather than a failure of every case.
    server.connect().map_err(|error| {
        anyhow::anyhow!("cannot connect to {name}: {error}; start the server, or correct the address")
    })?;
    let mut report = Report::new(name);
    for case in cases::cases(wire::Frames::new(plan.format)) {
        let outcome = server.run_case(&case);
        let result = CaseResult::new(case, outcome);
        if !plan.json {
            if !print(&result.row())? {
                return Ok(ExitCode::from(OUTPUT_CLOSED));
            }
        }
        report.add(result);
    }
    print(&if plan.json { report.json() } else { report.summary() })?;
    Ok(if report.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns whether standard output still has a reader.
fn print(line: &str) -> anyhow::Result<bool> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true).context("cannot print the result"),
    }
}
