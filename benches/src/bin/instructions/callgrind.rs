//! Runs this program under callgrind, and reads what that counted.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs, process};

use anyhow::{Context, Result, anyhow, ensure};

use crate::cases::{FEWER, MORE};

/// The instructions that one more operation takes.
pub(crate) fn per_operation(case: &str) -> Result<f64> {
    let dir = TempDir::new()?;
    // Both at a time: a count does not depend on who else runs.
    let fewer = Run::start(case, FEWER, &dir.0)?;
    let more = Run::start(case, MORE, &dir.0)?;
    let counts = || difference((FEWER, fewer.count()?), (MORE, more.count()?));
    counts().with_context(|| case.to_owned())
}

/// What one operation takes, by two runs of so many operations with so many instructions.
fn difference(fewer: (u32, u64), more: (u32, u64)) -> Result<f64> {
    let taken = more.1.checked_sub(fewer.1).context("more operations took fewer instructions")?;
    Ok(taken as f64 / f64::from(more.0 - fewer.0))
}

struct Run {
    child: Child,
    out_file: PathBuf,
}

impl Run {
    fn start(case: &str, times: u32, dir: &Path) -> Result<Self> {
        let out_file = dir.join(times.to_string());
        let mut out_option = OsString::from("--callgrind-out-file=");
        out_option.push(&out_file);
        let child = Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet", "--cache-sim=no", "--branch-sim=no", "--collect-jumps=no"])
            .arg(out_option)
            .arg(env::current_exe()?)
            .args(["run", case, &times.to_string()])
            // Some of them change what an allocator or a runtime does.
            .env_clear()
            .envs(env::var_os("PATH").map(|path| ("PATH", path)))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => {
                    anyhow!("valgrind is missing; Debian and Ubuntu: apt-get install valgrind")
                }
                _ => anyhow!("cannot run valgrind: {error}"),
            })?;
        Ok(Self { child, out_file })
    }

    fn count(self) -> Result<u64> {
        let output = self.child.wait_with_output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let said = errors.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(output.status.success(), "under valgrind: {}: {said}", output.status);
        let text = fs::read_to_string(&self.out_file).context("callgrind wrote no figures")?;
        total(&text)
    }
}

/// The instructions of a whole run, from callgrind's output file.
fn total(text: &str) -> Result<u64> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let events = field("events:").context("callgrind names no events")?;
    ensure!(events == "Ir", "callgrind counted {events:?} instead of instructions alone");
    let total = field("summary:").or_else(|| field("totals:")).context("callgrind tells no total")?;
    total.parse().with_context(|| format!("callgrind's total reads {total:?}"))
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
            (FILE.replace("events: Ir", "events: Ir Dr Dw"), "instead of instructions"),
            (FILE.replace("summary:", "other:").replace("totals:", "other:"), "no total"),
            (FILE.replace("summary: 2263054", "summary: many"), "\"many\""),
        ] {
            let error = total(&text).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn what_both_runs_have_in_common_is_in_no_figure() {
        assert_eq!(difference((10, 1_000_250), (30, 1_000_750)).unwrap(), 25.0);
        assert!(difference((10, 1000), (30, 999)).is_err());
    }
}
