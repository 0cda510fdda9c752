//! The command line: parses the arguments into a [`Job`], and reports wrong usage in one line.
//!
//! It reads the files that the arguments name, but runs nothing.

pub(crate) mod job;
pub(crate) use job::Job;

mod source;

mod tls;

mod connections;

pub(crate) mod options;

pub(crate) mod manual;

mod habits;

mod help;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Command as ClapCommand, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use pktconn_tools::printable::print_error;
use pktconn_tools::usage;

use crate::cli::options::Options;
use crate::conform;
use crate::judge::compare::{Limits, check_configs, check_result};
use crate::judge::gate;
use crate::merge::MergeOptions;
use crate::report::html;
use crate::result::comparison::Comparison;
use crate::result::document::Document;

/// Load generator for echo servers of length-prefixed packets.
///
/// Measures throughput and latency, and checks every byte that comes back.
///
/// Closed loop (the default): each connection keeps --pipeline packets outstanding and sends the next packet when one
/// comes back. Open loop (--rate or --stages): packets are sent on a schedule, regardless of responses.
///
/// Without an address, pktbench starts a built-in echo server in its own process and loads that one.
#[derive(Debug, Parser)]
#[command(version, allow_negative_numbers = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    pub(crate) run: Options,
}

/// The subcommands. Without one, `pktbench` runs a load.
#[derive(Debug, Subcommand)]
enum Command {
    /// Write the HTML report of an earlier result
    Html {
        /// Result of an earlier run, written with --json or --format ndjson
        #[arg(value_name = "RESULT.json")]
        result: PathBuf,

        /// HTML file to write, or - for standard output; if the name ends in .svg, only the charts are written, as one picture
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },

    /// Test whether a server echoes every kind of packet and rejects malformed ones
    ///
    /// Runs about 100 cases, each on one or two connections, and prints one row per case. TLS is not supported.
    ///
    /// Exit code: 0 if all cases pass, 1 if a case fails or the server cannot be reached, 2 for wrong usage.
    ///
    /// Example: pktbench conform 127.0.0.1:14572 --max-payload 1MiB
    Conform(conform::Options),

    /// Compare two results statistically: is NEW slower than BASE?
    ///
    /// Resamples the intervals of both results at random, to tell a real difference from noise. Needs at least 5
    /// intervals in each result; 30 or more are recommended.
    ///
    /// Exit code: 0 if there is no regression, 98 for a regression, 97 if the results are too noisy to tell, 1 for too
    /// few intervals, 2 for wrong usage, and for files that cannot be read or compared.
    ///
    /// Example: pktbench compare base.json new.json --max-regress rate:7%,p99:15%
    Compare(Compare),

    /// Add up the results of several load generators that ran at the same time
    ///
    /// Histograms are added and percentiles are computed from the sum, never averaged.
    ///
    /// Exit code: the worst of the results, 99 if a --threshold does not hold for the sum, 2 for wrong usage or
    /// unreadable files.
    ///
    /// Example: pktbench merge a.json b.json --threshold 'p99<5ms' -o sum.json
    Merge(MergeOptions),

    /// Print a shell completion script
    Completions {
        /// Shell to print the script for
        shell: Shell,
    },

    /// Write the manual pages into a directory
    Man {
        /// Directory for the pages, such as share/man/man1; created if missing
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// The options of `pktbench compare`.
#[derive(Debug, Args)]
struct Compare {
    /// Result to compare with, written with --json or --format ndjson
    base: PathBuf,

    /// Result to judge
    new: PathBuf,

    /// How much worse rate, p50, p99 and p99.9 may become; metrics that are not listed never fail
    #[arg(long, value_name = "LIST", default_value_t = Limits::default())]
    max_regress: Limits,

    /// Compare results that failed, or that were measured with different load options
    #[arg(long)]
    force: bool,

    /// Print the comparison as one JSON document
    #[arg(long)]
    json: bool,
}

impl Job {
    /// Parses the command line. `Err` is the exit code, after help or an error line has been printed.
    pub(crate) fn from_args() -> Result<Self, ExitCode> {
        let cli = command()
            .try_get_matches()
            .and_then(|matches| Cli::from_arg_matches(&matches))
            .map_err(|error| usage_error(&error))?;
        match cli.command {
            None => cli.run.into_job().map_err(|problem| bad_usage(&format!("error: {problem}"))),
            Some(Command::Html { result, file }) => {
                let document = html::read(&result, &file).map(Box::new).map_err(|error| bad_file(&error))?;
                Ok(Self::Html { document, file })
            }
            Some(Command::Conform(options)) => options
                .into_plan()
                .map(Self::Conform)
                .map_err(|problem| bad_usage(&format!("error: {problem}"))),
            Some(Command::Compare(files)) => {
                let comparison = files.compare().map_err(|error| bad_file(&error))?;
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
    fn compare(&self) -> anyhow::Result<Comparison> {
        let (base, new) = (Document::read(&self.base)?, Document::read(&self.new)?);
        if !self.force {
            let check = check_result(&base, &self.base)
                .and_then(|()| check_result(&new, &self.new))
                .and_then(|()| check_configs(&base.config, &self.base, &new.config));
            check.map_err(anyhow::Error::msg)?;
        }
        let comparison = Comparison::of(&base, &self.base, &new, &self.max_regress);
        gate::warn(&comparison);
        Ok(comparison)
    }
}

/// An input file that cannot be read or does not fit is wrong usage, too: exit code 2.
fn bad_file(error: &anyhow::Error) -> ExitCode {
    print_error(format_args!("{error:#}"));
    ExitCode::from(2)
}

fn bad_usage(problem: &str) -> ExitCode {
    usage::bad_usage(&program(), problem)
}

/// The command line, with the texts of `help`. An option is not in `-h` unless it is listed there.
pub(crate) fn command() -> ClapCommand {
    let mut command = Cli::command();
    // Adds the flags --help and --version, so that they can be left out of `-h`, too.
    command.build();
    command
        .mut_args(|arg| {
            let is_shown = help::SHORT_HELP.contains(&arg.get_id().as_str());
            arg.hide_short_help(!is_shown)
        })
        .after_help(help::AFTER_SHORT_HELP)
        .after_long_help(help::after_long_help())
}

/// Prints the help, the version, or the error in one line.
fn usage_error(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return usage::exit_code(&program(), error);
    }
    let problem = better_advice(error).unwrap_or_else(|| {
        let line = usage::one_line(&error.to_string());
        // An option that does not exist is a typing error, not a strange address.
        line.split("; tip: to pass '").next().unwrap_or_default().to_owned()
    });
    bad_usage(&problem)
}

/// Advice that clap does not have: for options of other programs, and for words that are no address.
fn better_advice(error: &clap::Error) -> Option<String> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if subcommand().is_some() {
        return None;
    }
    let argument = context(ContextKind::InvalidArg)?;
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let advice = habits::advice(argument)?;
            Some(format!("error: unexpected argument '{argument}'; {advice}"))
        }
        ErrorKind::ValueValidation if argument.contains("ADDR]") => {
            let word = context(ContextKind::InvalidValue)?;
            let cli = Cli::command();
            let commands: Vec<_> = cli.get_subcommands().map(ClapCommand::get_name).collect();
            // A word with a colon is meant to be an address; clap's error says what is wrong with it.
            (!word.contains(':')).then(|| format!("error: {}", habits::not_a_command(word, &commands)))
        }
        _ => None,
    }
}

/// The subcommand in the arguments, if there is one.
fn subcommand() -> Option<String> {
    let first = std::env::args_os().nth(1).and_then(|arg| arg.into_string().ok());
    first.filter(|name| Cli::command().find_subcommand(name).is_some())
}

fn program() -> String {
    subcommand().map_or_else(|| "pktbench".to_owned(), |name| format!("pktbench {name}"))
}
