//! CPU cores: which ones this process may use, and how to keep a thread on one.

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that the calling thread may run on, in ascending order: all cores of the machine, unless `taskset` or a
/// container allows fewer.
///
/// # Errors
///
/// The system call fails.
pub fn usable_cores() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("cannot get the usable cores")?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect())
}

/// Keeps the calling thread on `core`.
///
/// # Errors
///
/// The core does not exist, or this process may not use it.
pub fn pin_this_thread(core: usize) -> Result<()> {
    ensure!(core < CpuSet::MAX_CPU, "there is no core {core}");
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("cannot use core {core}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_on_the_core_that_it_is_pinned_to() {
        // Each test has its own thread, so this moves no other test.
        let last = usable_cores().unwrap().pop().unwrap();
        pin_this_thread(last).unwrap();
        assert_eq!(usable_cores().unwrap(), [last]);
    }

    #[test]
    fn a_core_that_does_not_exist_is_an_error() {
        assert!(pin_this_thread(CpuSet::MAX_CPU).is_err());
    }
}
