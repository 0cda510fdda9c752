//! The steps of `--search-max` as text: a line for each step while the search runs, and a chart at the end.

use crate::result::document::{Search, Step};
use crate::result::units;

/// The step with the lowest rate above `max_rate` at which the condition does not hold: what ended the search.
pub(crate) fn limit(search: &Search) -> Option<&Step> {
    let max_rate = search.max_rate.unwrap_or(0.0);
    search.steps.iter().find(|step| !step.ok && step.rate > max_rate)
}

/// A step as a line. It fits in 80 columns unless the reason is long.
pub(crate) fn row(step: &Step) -> String {
    let time = |ns: Option<u64>| ns.map_or("-".to_owned(), |ns| units::time(ns as f64));
    let what = step.problem.as_ref().map_or("holds".to_owned(), |problem| format!("no: {problem}"));
    format!(
        "{:>13}/s  p50 {:>7}  p99 {:>7}  {what}",
        units::rate(step.rate),
        time(step.p50_ns),
        time(step.p99_ns)
    )
}

/// A chart: a line for each step, sorted by rate, with a bar for its p99 on a logarithmic scale.
pub(crate) fn curve(search: &Search) -> Vec<String> {
    const WIDTH: f64 = 28.0;
    let p99 = || search.steps.iter().filter_map(|step| step.p99_ns).filter(|ns| *ns > 0);
    let (least, most) = (p99().min().unwrap_or(1) as f64, p99().max().unwrap_or(1) as f64);
    let bar = |ns: u64| {
        let share = if most > least { (ns.max(1) as f64 / least).ln() / (most / least).ln() } else { 0.0 };
        "#".repeat(1 + (share * WIDTH) as usize)
    };
    let row = |step: &Step| {
        let p99 = step.p99_ns.map_or("-".to_owned(), |ns| units::time(ns as f64));
        let holds = if step.ok { "holds" } else { "" };
        let bar = step.p99_ns.map_or(String::new(), bar);
        format!("{:>13}/s  p99 {p99:>7}  {holds:5}  {bar}", units::rate(step.rate)).trim_end().to_owned()
    };
    search.steps.iter().map(row).collect()
}
