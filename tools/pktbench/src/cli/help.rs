//! The texts of `-h` and `--help` that are not with an option: which options `-h` shows, examples, and the exit codes.

use crate::result::verdict::{OUTPUT_CLOSED, Verdict, WORST_FIRST};

/// The options that `-h` shows, by the names of their fields: those of most runs. `--help` shows all.
pub(crate) const SHORT_HELP: [&str; 15] = [
    "addrs",
    "tls",
    "conns",
    "rate",
    "pipeline",
    "search_max",
    "sizes",
    "duration",
    "packets",
    "warmup",
    "threshold",
    "json",
    "output",
    "html",
    "tui",
];

pub(crate) const AFTER_SHORT_HELP: &str =
    "'pktbench --help' shows all options, examples, and the exit codes with their order of precedence.";

const EXAMPLES: &str = "\
Examples:
  pktbench                                              loads the built-in echo server for 10 s
  pktbench 127.0.0.1:14572 --conns 1000 --duration 30 --json
  pktbench HOST:PORT --rate 50k --arrival poisson --threshold 'p99<2ms'
  pktbench HOST:PORT --search-max 'p99<5ms' --duration 10 --html report.html
  pktbench compare base.json new.json
  pktbench conform HOST:PORT";

/// Examples, and the table of verdicts and exit codes.
pub(crate) fn after_long_help() -> String {
    let mut text = format!(
        "{EXAMPLES}\n\nVerdicts and exit codes; if several apply, the first one in this table:\n\
         {:>5}  {:16}  wrong usage, or an input file that is not a valid result\n",
        2, "-"
    );
    for verdict in WORST_FIRST {
        text += &format!("{:>5}  {:16}  {}\n", verdict.exit_code(), name(verdict), meaning(verdict));
        if verdict == Verdict::Interrupted {
            let why = "standard output was closed during the run, which ended it";
            text += &format!("{OUTPUT_CLOSED:>5}  {:16}  {why}\n", "interrupted");
        }
    }
    text
}

/// As in the field `verdict` of the result.
fn name(verdict: Verdict) -> String {
    serde_json::to_value(verdict).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Integrity => "a packet was lost, corrupted, reordered or duplicated",
        Verdict::Interrupted => "by Ctrl-C, SIGTERM or SIGHUP; the results so far are printed",
        Verdict::Failed => "a connection failed, or a file could not be written",
        Verdict::NoAnswer => "packets were not answered within --timeout or --packet-timeout",
        Verdict::NotOffered => "less of the load was offered than --min-offered requires",
        Verdict::NoSamples => "no measured packet came back",
        Verdict::Saturated => "--strict-client: the load generator was saturated",
        Verdict::PassSaturated => "pass, but the load generator was saturated",
        Verdict::Threshold => "a --threshold does not hold, --abort-on ended the run, or no rate was found",
        Verdict::Regression => "worse than --baseline allows",
        Verdict::Undecided => "too few intervals to compare with --baseline",
        Verdict::Inconclusive => "it may be worse than --baseline allows; the results are too noisy to tell",
        Verdict::Pass => "every packet came back intact, in order and exactly once",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_of_the_short_help_exists() {
        let command = crate::cli::command();
        for name in SHORT_HELP {
            assert!(command.get_arguments().any(|arg| arg.get_id() == name), "{name}");
        }
    }

    #[test]
    fn the_short_help_fits_45_lines_of_100_columns() {
        let text = crate::cli::command().term_width(100).render_help().to_string();
        assert!(text.lines().count() <= 45, "{} lines:\n{text}", text.lines().count());
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        for (option, is_shown) in
            [("--conns", true), ("--rate", true), ("--tls-ca", false), ("--hgrm", false)]
        {
            assert_eq!(text.contains(option), is_shown, "{option}:\n{text}");
        }
        assert!(text.contains("pktbench --help"), "{text}");
    }

    #[test]
    fn the_long_help_has_all_groups_and_a_row_for_each_verdict_in_the_order_of_precedence() {
        let text = crate::cli::command().term_width(100).render_long_help().to_string();
        let groups = ["Server", "Connections", "Load", "Payloads", "Time", "Verdict", "Result"];
        let places: Vec<_> = groups.iter().map(|group| text.find(&format!("\n{group}:\n"))).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}: {text}");
        let table = text.split("the first one in this table:").nth(1).unwrap();
        let rows: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
        let expected = WORST_FIRST.map(|verdict| (verdict.exit_code().to_string(), name(verdict)));
        let shown: Vec<_> = rows.iter().filter(|row| row.len() == 2).collect();
        assert_eq!(shown[0][0], "2");
        let verdicts: Vec<_> = shown[1..].iter().filter(|row| row[0] != "141").collect();
        for (row, (code, name)) in verdicts.iter().zip(&expected) {
            assert_eq!((row[0], row[1]), (code.as_str(), name.as_str()), "{table}");
        }
        assert_eq!(verdicts.len(), expected.len(), "{table}");
        assert!(text.contains("--hgrm") && text.contains("--tls-ca"));
    }
}
