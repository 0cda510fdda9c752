//! Counts the instructions that an operation takes, and compares them with the committed figures.
//!
//! ```text
//! instructions -- valgrind --tool=callgrind -- instructions run CASE 1000
//!              -- valgrind --tool=callgrind -- instructions run CASE 11000    the difference, divided by 10000
//! ```
//!
//! The count does not depend on what else the machine does, so that a change of some percent can be told from noise. It
//! says nothing of caches, of the kernel, or of time: for these there is `echo_compare`.

#![forbid(unsafe_code)]

mod callgrind;
mod cases;
mod echo;
mod figures;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};

use crate::cases::Case;
use crate::figures::{Comparison, Figures};

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.json");

/// Counts the instructions that an operation takes, under valgrind; prints a Markdown table.
#[derive(Parser)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct Options {
    #[command(flatten)]
    mode: Option<Mode>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Mode {
    /// Fails when an operation takes over 3 % more than in FILE, by default the committed benches/instructions.json
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = COMMITTED)]
    check: Option<PathBuf>,
    /// Writes the figures to FILE, by default the committed benches/instructions.json
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = COMMITTED)]
    update: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs an operation again and again: what is counted, and what a profiler can be set on
    Run {
        /// As in the table
        case: String,
        /// How many times
        times: u32,
    },
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<()> {
    match (options.command, options.mode) {
        (Some(Command::Run { case, times }), _) => {
            let case = cases::all().into_iter().find(|known| known.name == case);
            (case.context("no such case")?.run)(times);
            Ok(())
        }
        (None, Some(Mode { check: Some(path), .. })) => check(&path),
        (None, Some(Mode { update: Some(path), .. })) => update(&path),
        (None, _) => bail!("nothing to do"),
    }
}

fn check(path: &Path) -> Result<()> {
    // First: a file that does not read is better known before the minute that counting takes.
    let committed = Figures::read(path)?;
    let comparison = Comparison { committed: &committed, now: &count(&cases::all())? };
    println!("{comparison}");
    comparison.verdict()
}

fn update(path: &Path) -> Result<()> {
    let now = count(&cases::all())?;
    // The table tells what changes, where there is something that reads: it may be a merge in conflict.
    let committed = Figures::read(path).unwrap_or_else(|_| Figures::none());
    println!("{}", Comparison { committed: &committed, now: &now });
    now.write(path)
}

fn count(cases: &[Case]) -> Result<Figures> {
    ensure!(!cfg!(debug_assertions), "a debug build has other figures: build with --release");
    let mut figures = Figures::none();
    for case in cases {
        let count = callgrind::per_operation(&case.name)?;
        figures.insert(&case.name, count / f64::from(case.packets));
    }
    Ok(figures)
}
