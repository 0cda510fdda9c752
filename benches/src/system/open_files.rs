//! The limit on open files.

use anyhow::{Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that a process opens in addition to its connections, rounded up: `pktecho` has 12 open before the first one.
const OTHER_FILES: u64 = 100;

/// Raises the soft limit on open files to the hard limit: a common default is 1024, which is too low for 1000
/// connections.
///
/// If this fails, the run fails later, when it opens one file too many, and reports that.
pub fn raise_open_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Checks that the limit on open files allows `conns` connections with `files_per_conn` files each.
///
/// # Errors
///
/// The limit is too low; the error says how to raise it.
pub fn check_open_file_limit(conns: usize, files_per_conn: usize) -> Result<()> {
    check_limit(conns, files_per_conn, getrlimit(Resource::Nofile).current)
}

/// `limit` is `None` if there is no limit.
fn check_limit(conns: usize, files_per_conn: usize, limit: Option<u64>) -> Result<()> {
    let needed = (conns as u64).saturating_mul(files_per_conn as u64).saturating_add(OTHER_FILES);
    let limit = limit.unwrap_or(u64::MAX);
    ensure!(
        needed <= limit,
        "{conns} connections need {needed} open files, and the limit is {limit}: raise the hard limit \
         (ulimit -Hn {needed}, as root) or choose fewer with --conns"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_too_low_is_reported_with_the_needed_number() {
        assert!(check_limit(900, 1, Some(1000)).is_ok());
        assert!(check_limit(usize::MAX, 4, None).is_ok());
        let error = check_limit(901, 1, Some(1000)).unwrap_err().to_string();
        assert!(
            error.starts_with("901 connections need 1001 open files, and the limit is 1000: "),
            "{error}"
        );
        assert!(check_limit(226, 4, Some(1000)).is_err());
    }
}
