//! Usage errors: one line on standard error, and exit code 2.

use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::printable;

/// Prints the help, the version or the error that clap returned instead of options. `program` is the name of the
/// program, with the subcommand if there is one.
///
/// Returns exit code 0 after help or version, and 2 after an error.
pub fn exit_code(program: &str, error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => bad_usage(program, &one_line(&error.to_string())),
    }
}

/// Prints `problem` and how to get the help of `program`. Returns exit code 2.
pub fn bad_usage(program: &str, problem: &str) -> ExitCode {
    eprintln!("{}; see '{program} --help'", printable::line(problem));
    ExitCode::from(2)
}

/// Joins the lines of clap's error message that come before its usage summary.
pub fn one_line(message: &str) -> String {
    let lines = message
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ").replace(":; ", ": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, Command};

    fn error(args: &[&str]) -> String {
        let required = Arg::new("name").long("name").required(true);
        let command = Command::new("tool").arg(required).arg(Arg::new("threads").long("threads"));
        let args = ["tool"].iter().chain(args);
        one_line(&command.try_get_matches_from(args).unwrap_err().to_string())
    }

    #[test]
    fn an_error_with_a_tip_becomes_one_line_without_the_usage() {
        let line = error(&["--thread", "1"]);
        assert!(line.starts_with("error: unexpected argument '--thread' found; tip: "), "{line}");
        assert!(!line.contains('\n') && !line.contains("Usage"), "{line}");
    }

    #[test]
    fn a_list_follows_its_colon() {
        let expected = "error: the following required arguments were not provided: --name <name>";
        assert_eq!(error(&[]), expected);
    }
}
