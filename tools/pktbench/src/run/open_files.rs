//! Raises the limit on open files for all connections of a run, or fails before the first connection is opened.

use anyhow::ensure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::plan::Plan;

/// Files that each tokio runtime or event loop opens for itself (epoll, a waker, signals), rounded up.
const FILES_PER_RUNTIME: u64 = 6;

/// Files open at the start: the three standard streams, and others that the process inherited.
const FILES_AT_START: u64 = 10;

/// Raises the soft limit on open files to what the plan needs. Fails if the hard limit is lower.
pub(crate) fn raise_limit(plan: &Plan) -> anyhow::Result<()> {
    let needed = needed(plan);
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.current.unwrap_or(u64::MAX);
    // Connections that are replaced all the time overlap with those that are still being closed.
    let closing = if plan.has_churn() { plan.conns as u64 } else { 0 };
    let wanted = (needed + closing).min(limit.maximum.unwrap_or(u64::MAX)).max(needed);
    if allowed >= wanted || setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }).is_ok() {
        return Ok(());
    }
    let (conns, hard_limit) = (plan.conns, limit.maximum.unwrap_or(allowed));
    let both_ends = if plan.has_own_server() { " (both ends are in this process)" } else { "" };
    ensure!(
        hard_limit >= needed,
        "too many open files: {conns} connections{both_ends} need {needed}, but the hard limit is {hard_limit}; \
         raise it with 'ulimit -n {needed}', or lower --conns"
    );
    Ok(())
}

fn needed(plan: &Plan) -> u64 {
    let (files_per_conn, server_runtimes) = if plan.has_own_server() { (2, 1) } else { (1, 0) };
    let runtimes = 1 + plan.threads as u64 + server_runtimes;
    plan.conns as u64 * files_per_conn + runtimes * FILES_PER_RUNTIME + FILES_AT_START
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn the_built_in_server_needs_as_many_files_again() {
        let own = Plan { conns: 1000, ..plan() };
        let remote = Plan { connect: vec!["127.0.0.1:1".into()], ..own.clone() };
        assert_eq!(needed(&own) - needed(&remote), 1000 + FILES_PER_RUNTIME);
        assert!(needed(&remote) > 1000);
    }
}
