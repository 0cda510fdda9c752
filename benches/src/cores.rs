//! The cores that this process may use, and the one that a thread has.

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that the calling thread may run on, in their order: all of the machine's, unless `taskset` or a container
/// grants fewer.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn usable_cores() -> Result<Vec<usize>> {
    let granted = sched_getaffinity(None).context("cannot ask which cores may be used")?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| granted.is_set(core)).collect())
}

/// Keeps the calling thread on `core`.
///
/// # Errors
///
/// When there is no such core, or it may not be used.
pub fn pin_this_thread(core: usize) -> Result<()> {
    ensure!(core < CpuSet::MAX_CPU, "there is no core {core}");
    let mut one = CpuSet::new();
    one.set(core);
    sched_setaffinity(None, &one).with_context(|| format!("core {core} cannot be used"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_on_the_core_that_it_is_pinned_to() {
        // Each test has a thread of its own, so that no other is moved.
        let last = usable_cores().unwrap().pop().unwrap();
        pin_this_thread(last).unwrap();
        assert_eq!(usable_cores().unwrap(), [last]);
    }

    #[test]
    fn a_core_that_does_not_exist_is_an_error() {
        assert!(pin_this_thread(CpuSet::MAX_CPU).is_err());
    }
}
