//! The command line: what is to be done.

pub(crate) mod job;
pub(crate) use job::Job;

pub(crate) mod options;

pub(crate) mod manual;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::cli::options::Options;
use crate::conform;
use crate::judge::compare::Limits;
use crate::judge::gate;
use crate::merge::Merge;
use crate::report::html;
use crate::result::comparison::Comparison;
use crate::result::document::Document;

/// Loads a server that echoes length-prefixed packets and checks every byte that comes back.
///
/// Each connection keeps a fixed number of packets outstanding and sends the next one when one returns (a closed loop), or
/// with --rate sends packets when they are due, whatever returns (an open loop). Without --connect the load goes to an echo
/// server of its own, in the same process.
#[derive(Debug, Parser)]
#[command(
    version,
    allow_negative_numbers = true,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  pktbench                                              an echo server of its own
  pktbench --connect 127.0.0.1:14572 --conns 1000 --duration 30s --json
  pktbench --connect HOST:PORT --rate 50k --arrival poisson --threshold 'p99<2ms'
  pktbench --connect HOST:PORT --search-max 'p99<5ms' --duration 10s --html report.html
  pktbench compare base.json new.json
  pktbench conform HOST:PORT

Exit codes, the worst first:
  2    bad usage, or a file that is no result
  3    a packet was lost, altered, reordered or doubled
  130  interrupted; the results so far are printed
  1    a connection failed, no packet came back, or a file cannot be written
  4    --strict-client, and the load was busy with itself
  99   a --threshold does not hold
  98   worse than --baseline allows
  1    too few intervals for --baseline
  0    all is well"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    pub(crate) run: Options,
}

/// What is done without loading a server.
#[derive(Debug, Subcommand)]
enum Command {
    /// Draw the report of an earlier result
    Html {
        /// What --json printed
        #[arg(value_name = "RESULT.json")]
        result: PathBuf,

        /// The page that is written; a name that ends in .svg is for its charts alone, as one picture
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },

    /// Judge a server: whether it echoes every kind of packet, and refuses what is none
    ///
    /// Exit code: 0 all is well, 1 a case fails or the server cannot be reached, 2 bad usage.
    Conform(conform::Options),

    /// Tell whether one result is worse than another, or only looks so
    ///
    /// The intervals of both are drawn at random again and again, which shows what of the difference may be noise.
    ///
    /// Exit code: 0 no regression, 1 too few intervals to tell, 2 bad usage or files, 98 a regression.
    Compare(Compare),

    /// Add up the results of several load generators that loaded at the same time
    ///
    /// Exit code: that of the worst, 2 bad usage or files, 99 a --threshold does not hold for the sum.
    Merge(Merge),

    /// Print the completions of a shell
    Completions { shell: Shell },

    /// Write the manual pages into a directory, which is made where it is missing
    Man {
        /// Where the pages go
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// What to compare.
#[derive(Debug, Args)]
struct Compare {
    /// The result to compare with, as --json prints it
    base: PathBuf,

    /// The result that is not to be worse
    new: PathBuf,

    /// How much worse rate, p50, p99 and p99.9 may be; what is not named is no regression
    #[arg(long, value_name = "LIST", default_value_t = Limits::default())]
    max_regress: Limits,

    /// Print the comparison as one JSON document
    #[arg(long)]
    json: bool,
}

impl Job {
    /// Parses the command line. `Err` is the exit code after help, or after a line on standard error.
    pub(crate) fn from_args() -> Result<Self, ExitCode> {
        let cli = Cli::try_parse().map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                let _ = error.print();
                ExitCode::SUCCESS
            }
            _ => bad_usage(&one_line(&error.to_string())),
        })?;
        match cli.command {
            None => cli.run.into_job().map_err(|problem| bad_usage(&format!("error: {problem}"))),
            Some(Command::Html { result, file }) => {
                let document = html::read(&result).map(Box::new).map_err(|error| bad_file(&error))?;
                Ok(Self::Html { document, file })
            }
            Some(Command::Conform(options)) => options
                .into_plan()
                .map(Self::Conform)
                .map_err(|problem| bad_usage(&format!("error: {problem}"))),
            Some(Command::Compare(files)) => {
                let comparison = files.compared().map_err(|error| bad_file(&error))?;
                Ok(Self::Compare { comparison, json: files.json })
            }
            Some(Command::Merge(files)) => {
                files.into_sum().map(|sum| Self::Merge(Box::new(sum))).map_err(|error| bad_file(&error))
            }
            Some(Command::Completions { shell }) => Ok(Self::Completions(shell)),
            Some(Command::Man { dir }) => Ok(Self::Man(dir)),
        }
    }
}

impl Compare {
    fn compared(&self) -> anyhow::Result<Comparison> {
        let (base, new) = (Document::read(&self.base)?, Document::read(&self.new)?);
        let comparison = Comparison::of(&base, &self.base, &new, &self.max_regress);
        gate::warn(&comparison);
        Ok(comparison)
    }
}

/// Files that cannot be read, or do not belong together, are those of the command line.
fn bad_file(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(2)
}

fn bad_usage(problem: &str) -> ExitCode {
    eprintln!("{problem}; see 'pktbench --help'");
    ExitCode::from(2)
}

/// What a usage error says before it comes to the usage.
pub(crate) fn one_line(message: &str) -> String {
    let said = message
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    said.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ").replace(":; ", ": ")
}
