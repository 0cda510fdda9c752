//! `pktbench conform`: whether a server of packets echoes what it has to, and refuses what it has to.
//!
//! ```text
//!   options -> cases, one after the other -> client <-> server
//!                                              '-> report, a row a case -> exit code
//! ```
//!
//! It asks nothing of the server but the wire format: any echo server in any language can be judged.

mod cases;
mod client;
mod options;
mod report;
mod wire;

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Context;
use client::Server;
pub(crate) use options::{Options, Plan};
use report::{Judged, Report};

/// Judges a server. The exit code is 0 where it passes every case, and 1 where it does not.
pub(crate) fn run(plan: Plan) -> anyhow::Result<ExitCode> {
    let name = plan.addr.to_string();
    let server = Server::new(plan.addr, plan.timeout)?;
    // What cannot be reached is not judged.
    server.connect().map_err(|error| {
        anyhow::anyhow!("cannot connect to {name}: {error}; start the server, or check the address")
    })?;
    let mut report = Report::new(name);
    for case in cases::cases(wire::Frames::new(plan.format)) {
        let outcome = server.play(&case);
        let judged = Judged::new(case, outcome);
        if !plan.json {
            print(&judged.row())?;
        }
        report.add(judged);
    }
    print(&if plan.json { report.json() } else { report.sum() })?;
    Ok(if report.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(line: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{line}") {
        // A reader that has gone away is no reason for another exit code.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.context("cannot print the result"),
    }
}
