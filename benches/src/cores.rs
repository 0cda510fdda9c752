//! The cores that this process may use.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_core_to_run_on() {
        assert!(!usable_cores().unwrap().is_empty());
    }
}
