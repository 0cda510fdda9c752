//! What a judgement looks like: a row a case for people, one JSON document for programs.

use serde::Serialize;

use crate::conform::cases::Case;
use crate::conform::client::Fault;

/// The name of the document's shape. Programs rely on it: it changes when a field changes its meaning or goes.
const SCHEMA: &str = "pktbench-conform/1";

/// What became of all cases.
#[derive(Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    server: String,
    cases: Vec<Judged>,
    passed: usize,
    failed: usize,
}

/// What became of a case.
#[derive(Serialize)]
pub(crate) struct Judged {
    name: String,
    ok: bool,
    expected: String,
    /// The bytes that came, as hex, around the place where they went wrong; of a case that passed they are not told.
    got: Option<String>,
    detail: Option<String>,
}

impl Report {
    pub(crate) fn new(server: String) -> Self {
        Self { schema: SCHEMA, server, cases: Vec::new(), passed: 0, failed: 0 }
    }

    pub(crate) fn add(&mut self, judged: Judged) {
        self.passed += usize::from(judged.ok);
        self.failed += usize::from(!judged.ok);
        self.cases.push(judged);
    }

    pub(crate) fn all_passed(&self) -> bool {
        self.failed == 0
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("a report has no key but strings")
    }

    pub(crate) fn sum(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed)
    }
}

impl Judged {
    pub(crate) fn new(case: Case, outcome: Result<(), Fault>) -> Self {
        let Case { name, expected, .. } = case;
        let ok = outcome.is_ok();
        let (got, detail) = outcome.err().map(|Fault { got, detail }| (got, detail)).unzip();
        Self { name, ok, expected, got, detail }
    }

    pub(crate) fn row(&self) -> String {
        let Self { name, expected, .. } = self;
        let (Some(got), Some(detail)) = (&self.got, &self.detail) else { return format!("pass  {name}") };
        let came = if got.is_empty() { "no byte" } else { got };
        format!("FAIL  {name}: expected {expected}; {detail}; came: {came}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conform::cases::Others;
    use serde_json::{Value, json};

    fn judged(outcome: Result<(), (&str, &str)>) -> Judged {
        let (name, expected) = ("half-close".to_owned(), "the end of the stream".to_owned());
        let case = Case { name, expected, steps: Vec::new(), others: Others::None };
        let fault = |(detail, got): (&str, &str)| Fault { detail: detail.to_owned(), got: got.to_owned() };
        Judged::new(case, outcome.map_err(fault))
    }

    #[test]
    fn a_row_says_what_was_expected_and_what_came() {
        assert_eq!(judged(Ok(())).row(), "pass  half-close");
        assert_eq!(
            judged(Err(("more came behind 8 bytes", "00ff"))).row(),
            "FAIL  half-close: expected the end of the stream; more came behind 8 bytes; came: 00ff"
        );
        assert!(judged(Err(("nothing more came", ""))).row().ends_with("; nothing more came; came: no byte"));
    }

    #[test]
    fn the_document_has_every_case_and_their_counts() {
        let mut report = Report::new("unix:socket".to_owned());
        report.add(judged(Ok(())));
        assert!(report.all_passed());
        report.add(judged(Err(("detail", "00ff"))));
        assert!(!report.all_passed());
        let document: Value = serde_json::from_str(&report.json()).unwrap();
        let expected = "the end of the stream";
        assert_eq!(
            document,
            json!({
                "schema": "pktbench-conform/1", "server": "unix:socket", "passed": 1, "failed": 1,
                "cases": [
                    {"name": "half-close", "ok": true, "expected": expected, "got": null, "detail": null},
                    {"name": "half-close", "ok": false, "expected": expected, "got": "00ff", "detail": "detail"},
                ],
            })
        );
    }
}
