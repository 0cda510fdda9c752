//! The end of a program: one line on standard error and an exit code.

use std::process::ExitCode;

use anyhow::Result;

/// Returns exit code 0 if the program succeeded. Otherwise prints the error, with its causes, and returns 1.
pub fn exit_code(program: &str, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
