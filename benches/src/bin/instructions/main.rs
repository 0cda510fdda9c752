//! Counts the instructions per operation under valgrind, and compares them with the committed figures.
//!
//! ```text
//! instructions -- valgrind --tool=callgrind -- instructions run CASE 1000
//!              -- valgrind --tool=callgrind -- instructions run CASE 11000    the difference, divided by 10000
//! ```
//!
//! The count does not depend on other load of the machine, so changes of a few percent are visible. It says nothing
//! about caches, the kernel or time: `echo_compare` measures these.

#![forbid(unsafe_code)]

mod callgrind;
mod cases;
mod echo;
mod figures;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use pktconn_benches::report::exit_code;
use pktconn_tools::values::whole_number;

use crate::cases::Case;
use crate::figures::{Comparison, Figures};

const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.json");

/// Counts the instructions per operation under valgrind; prints a Markdown table.
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
    /// Fail if an operation takes over 3 % more instructions than in FILE [default: the committed
    /// benches/instructions.json]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = COMMITTED)]
    check: Option<PathBuf>,
    /// Write the figures to FILE [default: the committed benches/instructions.json]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = COMMITTED)]
    update: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run an operation many times: this is what valgrind counts, and what you can profile
    Run {
        /// Name of the operation, as in the table
        case: String,
        /// Number of operations
        #[arg(value_parser = whole_number::<u32>(0.., 1000))]
        times: u32,
    },
}

fn main() -> ExitCode {
    exit_code("instructions", run(Options::parse()))
}

fn run(options: Options) -> Result<()> {
    match (options.command, options.mode) {
        (Some(Command::Run { case, times }), _) => {
            let known = cases::all().into_iter().find(|known| known.name == case);
            let known = known.with_context(|| format!("unknown operation {case:?}; --check lists them"))?;
            (known.run)(times);
            Ok(())
        }
        (None, Some(Mode { check: Some(path), .. })) => check(&path),
        (None, Some(Mode { update: Some(path), .. })) => update(&path),
        (None, _) => bail!("expected --check, --update or run"),
    }
}

fn check(path: &Path) -> Result<()> {
    // Before counting, which takes a minute, so that an invalid file is reported at once.
    let committed = Figures::read(path)?;
    let comparison = Comparison { committed: &committed, now: &count(&cases::all())? };
    println!("{comparison}");
    comparison.verdict()
}

fn update(path: &Path) -> Result<()> {
    let now = count(&cases::all())?;
    // The old file only serves the table. It may be unreadable, for example because of a merge conflict.
    let committed = Figures::read(path).unwrap_or_else(|_| Figures::empty());
    println!("{}", Comparison { committed: &committed, now: &now });
    now.write(path)
}

fn count(cases: &[Case]) -> Result<Figures> {
    ensure!(!cfg!(debug_assertions), "a debug build has different figures; build with --release");
    let mut figures = Figures::empty();
    for case in cases {
        let count = callgrind::per_operation(case)?;
        figures.insert(&case.name, count / f64::from(case.packets));
    }
    Ok(figures)
}
