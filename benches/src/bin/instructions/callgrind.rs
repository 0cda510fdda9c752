//! Runs this program under callgrind, and reads the count.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs, process};

use anyhow::{Context, Result, anyhow, ensure};

use crate::cases::{Case, FEWER, MORE};

/// Instructions per operation: the mean over the heap layouts of the case.
///
/// What malloc costs depends on where its free blocks lie, and so on the length of every earlier allocation. The first
/// ones are the arguments. So each layout runs the program under a name that is 16 bytes longer.
pub(crate) fn per_operation(case: &Case) -> Result<f64> {
    let dir = TempDir::new()?;
    let mut sum = 0.0;
    for layout in 0..case.heap_layouts {
        let program = dir.0.join("x".repeat(16 * (layout as usize + 1)));
        symlink(env::current_exe()?, &program).context("cannot create a link to this program")?;
        sum += one_layout(&case.name, &program).with_context(|| case.name.clone())?;
    }
    Ok(sum / f64::from(case.heap_layouts))
}

fn one_layout(case: &str, program: &Path) -> Result<f64> {
    // Both runs at the same time: the count does not depend on other processes.
    let fewer = Run::start(program, case, FEWER)?;
    let more = Run::start(program, case, MORE)?;
    difference((FEWER, fewer.count()?), (MORE, more.count()?))
}

/// Instructions per operation, from two runs: their operations and their instructions.
fn difference(fewer: (u32, u64), more: (u32, u64)) -> Result<f64> {
    let added = more.1.checked_sub(fewer.1).context("more operations took fewer instructions")?;
    Ok(added as f64 / f64::from(more.0 - fewer.0))
}

struct Run {
    child: Child,
    out_file: PathBuf,
}

impl Run {
    fn start(program: &Path, case: &str, times: u32) -> Result<Self> {
        let out_file = program.with_extension(times.to_string());
        let mut out_option = OsString::from("--callgrind-out-file=");
        out_option.push(&out_file);
        let child = Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet", "--cache-sim=no", "--branch-sim=no", "--collect-jumps=no"])
            .arg(out_option)
            .arg(program)
            .args(["run", case, &times.to_string()])
            // Some environment variables change the behavior of an allocator or a runtime.
            .env_clear()
            .envs(env::var_os("PATH").map(|path| ("PATH", path)))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => {
                    anyhow!("valgrind is not installed; on Debian and Ubuntu: apt-get install valgrind")
                }
                _ => anyhow!("cannot run valgrind: {error}"),
            })?;
        Ok(Self { child, out_file })
    }

    fn count(self) -> Result<u64> {
        let output = self.child.wait_with_output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let errors_line = errors.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(output.status.success(), "valgrind failed: {}: {errors_line}", output.status);
        let text = fs::read_to_string(&self.out_file).context("callgrind wrote no figures")?;
        total(&text)
    }
}

/// Parses the total number of instructions from callgrind's output file.
fn total(text: &str) -> Result<u64> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let events = field("events:").context("callgrind's file has no events")?;
    ensure!(events == "Ir", "callgrind counted {events:?} instead of only instructions (Ir)");
    let total = field("summary:").or_else(|| field("totals:")).context("callgrind's file has no total")?;
    total.parse().with_context(|| format!("callgrind's total is not a number: {total:?}"))
}

struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Result<Self> {
        let dir = env::temp_dir().join(format!("pktconn-instructions-{}", process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# callgrind format
version: 1
creator: callgrind-3.19.0
pid: 4711
cmd:  target/release/instructions run decode-64 1000
part: 1

positions: line
events: Ir
summary: 2263054

fl=(3)
fn=(12)
0 5
totals: 2263054
";

    #[test]
    fn the_total_is_that_of_the_whole_run() {
        assert_eq!(total(FILE).unwrap(), 2_263_054);
        assert_eq!(total(&FILE.replace("summary:", "other:")).unwrap(), 2_263_054);
    }

    #[test]
    fn a_file_without_a_count_of_instructions_is_refused() {
        for (text, what) in [
            (String::new(), "no events"),
            (FILE.replace("events: Ir", "events: Ir Dr Dw"), "instead of only instructions"),
            (FILE.replace("summary:", "other:").replace("totals:", "other:"), "no total"),
            (FILE.replace("summary: 2263054", "summary: many"), "\"many\""),
        ] {
            let error = total(&text).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn what_both_runs_have_in_common_cancels_out() {
        assert_eq!(difference((10, 1_000_250), (30, 1_000_750)).unwrap(), 25.0);
        assert!(difference((10, 1000), (30, 999)).is_err());
    }
}
