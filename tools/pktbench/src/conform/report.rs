//! The result of a test: one row per case for people, or one JSON document for programs.

use serde::Serialize;

use crate::conform::cases::Case;
use crate::conform::client::CaseFailure;
use crate::result::json;

/// The name and version of the document's schema. Raise the version when a field changes its meaning or is removed.
const SCHEMA: &str = "pktbench-conform/1";

/// The results of all cases.
#[derive(Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    server: String,
    cases: Vec<CaseResult>,
    passed: usize,
    failed: usize,
    /// The cases that were not run, because the server answers nothing.
    pub(crate) not_run: usize,
    /// Why the test ended early; `None` if all cases were run.
    gave_up: Option<String>,
}

/// The result of a case.
#[derive(Serialize)]
pub(crate) struct CaseResult {
    name: String,
    ok: bool,
    expected: String,
    /// The bytes received around the first difference, as hex; empty if none were received, `None` if the case passed.
    got: Option<String>,
    /// What went wrong; `None` if the case passed.
    detail: Option<String>,
}

impl Report {
    pub(crate) fn new(server: String) -> Self {
        Self { schema: SCHEMA, server, cases: Vec::new(), passed: 0, failed: 0, not_run: 0, gave_up: None }
    }

    pub(crate) fn add(&mut self, result: CaseResult) {
        self.passed += usize::from(result.ok);
        self.failed += usize::from(!result.ok);
        self.cases.push(result);
    }

    pub(crate) fn all_passed(&self) -> bool {
        self.failed == 0
    }

    pub(crate) fn has_none_passed(&self) -> bool {
        self.passed == 0
    }

    /// Ends the test early.
    pub(crate) fn give_up(&mut self, why: String) {
        self.gave_up = Some(why);
    }

    pub(crate) fn has_given_up(&self) -> bool {
        self.gave_up.is_some()
    }

    pub(crate) fn json(&self) -> String {
        json::to_line(self)
    }

    pub(crate) fn summary(&self) -> String {
        let Self { passed, failed, not_run, .. } = self;
        match &self.gave_up {
            None => format!("{passed} passed, {failed} failed"),
            Some(why) => format!("{passed} passed, {failed} failed, {not_run} not run: {why}"),
        }
    }
}

impl CaseResult {
    pub(crate) fn new(case: Case, outcome: Result<(), CaseFailure>) -> Self {
        let Case { name, expected, .. } = case;
        let ok = outcome.is_ok();
        let (got, detail) = outcome.err().map(|CaseFailure { got, detail }| (got, detail)).unzip();
        Self { name, ok, expected, got, detail }
    }

    pub(crate) fn row(&self) -> String {
        let Self { name, expected, .. } = self;
        let (Some(got), Some(detail)) = (&self.got, &self.detail) else { return format!("pass  {name}") };
        let received = if got.is_empty() { "nothing" } else { got };
        format!("FAIL  {name}: expected {expected}; {detail}; received: {received}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conform::cases::OtherConn;
    use serde_json::{Value, json};

    fn result(outcome: Result<(), (&str, &str)>) -> CaseResult {
        let (name, expected) = ("half-close".to_owned(), "the end of the stream".to_owned());
        let case = Case { name, expected, steps: Vec::new(), other_conn: OtherConn::None };
        let failure =
            |(detail, got): (&str, &str)| CaseFailure { detail: detail.to_owned(), got: got.to_owned() };
        CaseResult::new(case, outcome.map_err(failure))
    }

    #[test]
    fn a_row_says_what_was_expected_and_what_was_received() {
        assert_eq!(result(Ok(())).row(), "pass  half-close");
        assert_eq!(
            result(Err(("more than 8 bytes came", "00ff"))).row(),
            "FAIL  half-close: expected the end of the stream; more than 8 bytes came; received: 00ff"
        );
        assert!(result(Err(("timed out", ""))).row().ends_with("; timed out; received: nothing"));
    }

    #[test]
    fn the_document_has_all_cases_and_their_counts() {
        let mut report = Report::new("unix:socket".to_owned());
        report.add(result(Ok(())));
        assert!(report.all_passed());
        report.add(result(Err(("detail", "00ff"))));
        assert!(!report.all_passed());
        assert_eq!(report.summary(), "1 passed, 1 failed");
        let document: Value = serde_json::from_str(&report.json()).unwrap();
        let expected = "the end of the stream";
        assert_eq!(
            document,
            json!({
                "schema": "pktbench-conform/1", "server": "unix:socket", "passed": 1, "failed": 1,
                "not_run": 0, "gave_up": null,
                "cases": [
                    {"name": "half-close", "ok": true, "expected": expected, "got": null, "detail": null},
                    {"name": "half-close", "ok": false, "expected": expected, "got": "00ff", "detail": "detail"},
                ],
            })
        );
    }
}
