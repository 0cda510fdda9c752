//! Enough open files for all connections, or an error before the first of them is made.

use anyhow::ensure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::plan::Plan;

/// What each runtime keeps open for itself (epoll, a waker, signals), rounded up.
const FILES_A_RUNTIME: u64 = 6;

/// The three standard streams, and what else the process was started with.
const FILES_AT_START: u64 = 10;

/// Raises the soft limit on open files to what the plan needs, as far as the hard one allows.
pub(crate) fn make_room(plan: &Plan) -> anyhow::Result<()> {
    let needed = needed(plan);
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.current.unwrap_or(u64::MAX);
    if allowed >= needed || setrlimit(Resource::Nofile, Rlimit { current: Some(needed), ..limit }).is_ok() {
        return Ok(());
    }
    let (conns, most) = (plan.conns, limit.maximum.unwrap_or(allowed));
    let whose = if plan.has_own_server() { ", with the server in the same process," } else { "" };
    ensure!(
        most >= needed,
        "too many open files: {conns} connections{whose} need {needed} and the limit is {most}; \
         raise it with 'ulimit -n {needed}' or lower --conns"
    );
    Ok(())
}

fn needed(plan: &Plan) -> u64 {
    let (ends_a_conn, server_runtimes) = if plan.has_own_server() { (2, 1) } else { (1, 0) };
    let runtimes = 1 + plan.threads as u64 + server_runtimes;
    plan.conns as u64 * ends_a_conn + runtimes * FILES_A_RUNTIME + FILES_AT_START
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn a_server_in_the_same_process_needs_as_many_files_again() {
        let own = Plan { conns: 1000, ..plan() };
        let remote = Plan { connect: vec!["127.0.0.1:1".into()], ..own.clone() };
        assert_eq!(needed(&own) - needed(&remote), 1000 + FILES_A_RUNTIME);
        assert!(needed(&remote) > 1000);
    }
}
