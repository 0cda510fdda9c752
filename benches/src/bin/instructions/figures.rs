//! The figures, the file with the committed ones, and their comparison.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::{env, fmt, fs};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How far an operation may exceed its committed figure. The count itself does not vary, but a different inlining
/// decision of the compiler changes it by a few percent. An unnecessary allocation or copy changes it by more.
const TOLERANCE_PERCENT: f64 = 3.0;

/// Instructions per packet for each operation, and the environment that they are valid for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    rustc: String,
    arch: String,
    /// It matters because it copies, compares and allocates.
    libc: String,
    /// Name and figure, in the order of the table, rounded to tenths.
    #[serde(serialize_with = "as_map", deserialize_with = "from_map")]
    instructions: Vec<(String, f64)>,
}

impl Figures {
    /// No figures yet, for this program on this machine.
    pub(crate) fn empty() -> Self {
        let (rustc, arch) = (env!("RUSTC_RELEASE").to_owned(), env::consts::ARCH.to_owned());
        Self { rustc, arch, libc: libc(), instructions: Vec::new() }
    }

    pub(crate) fn insert(&mut self, case: &str, instructions: f64) {
        self.instructions.push((case.to_owned(), to_tenths(instructions)));
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a valid file of figures", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn get(&self, case: &str) -> Option<f64> {
        self.instructions.iter().find(|(name, _)| name == case).map(|(_, instructions)| *instructions)
    }

    /// Figures are comparable only between the same compiler release, architecture and libc: all three change the
    /// number of instructions.
    fn is_comparable(&self, other: &Self) -> bool {
        let minor = |release: &str| release.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
        minor(&self.rustc) == minor(&other.rustc) && self.arch == other.arch && self.libc == other.libc
    }

    fn origin(&self) -> String {
        format!("rustc {}, {}, {}", self.rustc, self.arch, self.libc)
    }
}

/// Name and version, such as "glibc 2.36". Only glibc reports them this way.
fn libc() -> String {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok();
    let version = output.filter(|output| output.status.success());
    version
        .map_or("another libc".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// More digits mean nothing, and the file would change with each update.
fn to_tenths(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

fn as_map<S: Serializer>(figures: &[(String, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(figures.iter().map(|(name, figure)| (name, figure)))
}

fn from_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, f64)>, D::Error> {
    Ok(BTreeMap::deserialize(deserializer)?.into_iter().collect())
}

/// The committed and the current figures. Displayed as a Markdown table, with notes below it.
pub(crate) struct Comparison<'a> {
    pub(crate) committed: &'a Figures,
    pub(crate) now: &'a Figures,
}

impl Comparison<'_> {
    /// All cases of both sides: name, committed figure, current figure.
    fn rows(&self) -> Vec<(&str, Option<f64>, Option<f64>)> {
        let removed = self.committed.instructions.iter().filter(|(name, _)| self.now.get(name).is_none());
        let names = self.now.instructions.iter().chain(removed).map(|(name, _)| name.as_str());
        names.map(|name| (name, self.committed.get(name), self.now.get(name))).collect()
    }

    /// The cases whose change in percent satisfies `condition`.
    fn changed(&self, condition: impl Fn(f64) -> bool) -> Vec<&str> {
        let rows = self.rows().into_iter();
        rows.filter(|&(_, before, now)| change_percent(before, now).is_some_and(&condition))
            .map(|(name, ..)| name)
            .collect()
    }

    /// Fails if an operation takes too many instructions, or is only on one side.
    pub(crate) fn verdict(&self) -> Result<()> {
        let is_on_one_side =
            |&(_, before, now): &(&str, Option<f64>, Option<f64>)| before.is_some() != now.is_some();
        let one_sided: Vec<_> =
            self.rows().into_iter().filter(is_on_one_side).map(|(name, ..)| name).collect();
        if !one_sided.is_empty() {
            bail!("only in the file or only in the program: {}; run with --update", one_sided.join(", "));
        }
        let above = self.changed(|percent| percent > TOLERANCE_PERCENT);
        if self.committed.is_comparable(self.now) && !above.is_empty() {
            bail!("over {TOLERANCE_PERCENT} % more instructions than committed: {}", above.join(", "));
        }
        Ok(())
    }
}

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.1}"));
        writeln!(f, "| instructions a packet | committed | now | change |\n|---|--:|--:|--:|")?;
        for (name, before, now) in self.rows() {
            let change = change_percent(before, now);
            let change = change.map_or("-".to_owned(), |percent| format!("{percent:+.1} %"));
            writeln!(f, "| {name} | {} | {} | {change} |", cell(before), cell(now))?;
        }
        if !self.committed.is_comparable(self.now) {
            let (committed, now) = (self.committed.origin(), self.now.origin());
            write!(f, "\nnot comparable, so no case fails: committed with {committed}; now {now}")?;
            return Ok(());
        }
        let below = self.changed(|percent| percent < -TOLERANCE_PERCENT);
        if !below.is_empty() {
            let below = below.join(", ");
            write!(f, "\nover {TOLERANCE_PERCENT} % fewer instructions; commit them with --update: {below}")?;
        }
        Ok(())
    }
}

fn change_percent(before: Option<f64>, now: Option<f64>) -> Option<f64> {
    let (before, now) = (before?, now?);
    // In this order, 3 % of a round figure is exactly 3.
    Some((now - before) / before * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rustc: &str, cases: &[(&str, f64)]) -> Figures {
        let (arch, libc) = ("x86_64".to_owned(), "glibc 2.36".to_owned());
        let mut figures = Figures { rustc: rustc.to_owned(), arch, libc, instructions: Vec::new() };
        cases.iter().for_each(|(name, figure)| figures.insert(name, *figure));
        figures
    }

    fn compare(committed: &Figures, now: &Figures) -> (String, Result<(), String>) {
        let comparison = Comparison { committed, now };
        (comparison.to_string(), comparison.verdict().map_err(|error| error.to_string()))
    }

    #[test]
    fn more_than_the_tolerance_fails_and_names_the_case() {
        let committed = figures("1.95.0", &[("a", 1000.0), ("b", 1000.0)]);
        let (table, verdict) = compare(&committed, &figures("1.95.1", &[("a", 1030.0), ("b", 1030.1)]));
        assert_eq!(verdict, Err("over 3 % more instructions than committed: b".to_owned()));
        assert!(
            table.ends_with("| a | 1000.0 | 1030.0 | +3.0 % |\n| b | 1000.0 | 1030.1 | +3.0 % |\n"),
            "{table}"
        );
    }

    #[test]
    fn fewer_instructions_pass_with_a_hint() {
        let committed = figures("1.95.0", &[("a", 1000.0), ("b", 1000.0)]);
        let (table, verdict) = compare(&committed, &figures("1.95.0", &[("a", 969.9), ("b", 970.0)]));
        assert_eq!(verdict, Ok(()));
        assert!(table.ends_with("\nover 3 % fewer instructions; commit them with --update: a"), "{table}");
    }

    #[test]
    fn a_case_on_one_side_only_fails() {
        let (one, two) = (figures("1.95.0", &[("a", 10.0)]), figures("1.95.0", &[("a", 10.0), ("b", 5.0)]));
        for (committed, now, row) in
            [(&one, &two, "| b | - | 5.0 | - |"), (&two, &one, "| b | 5.0 | - | - |")]
        {
            let (table, verdict) = compare(committed, now);
            assert!(verdict.unwrap_err().contains(": b;"));
            assert!(table.contains(row), "{table}");
        }
    }

    #[test]
    fn another_release_architecture_or_libc_is_reported_and_does_not_fail() {
        let committed = figures("1.95.0", &[("a", 10.0)]);
        let now = figures("1.95.0", &[("a", 20.0)]);
        let arm = Figures { arch: "aarch64".to_owned(), ..now.clone() };
        let musl = Figures { libc: "another libc".to_owned(), ..now.clone() };
        assert!(compare(&committed, &now).1.is_err());
        for rustc in ["1.96.0", "2.95.0"] {
            assert_eq!(compare(&committed, &Figures { rustc: rustc.to_owned(), ..now.clone() }).1, Ok(()));
        }
        for now in [arm, musl] {
            let (table, verdict) = compare(&committed, &now);
            assert_eq!(verdict, Ok(()));
            assert!(table.contains("| a | 10.0 | 20.0 | +100.0 % |"), "{table}");
            assert!(table.contains("\nnot comparable, so no case fails: "), "{table}");
        }
    }

    #[test]
    fn a_file_has_tenths_in_the_order_of_the_cases() {
        let written = figures("1.95.0", &[("b-64", 41.26), ("a-2048", 3.0), ("a-512", 0.04)]);
        let text = serde_json::to_string(&written).unwrap();
        let build = r#""rustc":"1.95.0","arch":"x86_64","libc":"glibc 2.36""#;
        let cases = r#"{"b-64":41.3,"a-2048":3.0,"a-512":0.0}"#;
        assert_eq!(text, format!(r#"{{{build},"instructions":{cases}}}"#));
        let read: Figures = serde_json::from_str(&text).unwrap();
        assert_eq!(compare(&read, &written).1, Ok(()));
        assert_eq!(read.get("b-64"), Some(41.3));
    }
}
