//! Reads documents of the schema `pktbench/1`. The types of the document have its names as aliases; the manual lists the
//! differences.

use serde::Deserialize;

use super::document::{Document, Mode, Offered};
use super::verdict::Verdict;

pub(crate) const SCHEMA: &str = "pktbench/1";

/// The fields that have no counterpart in version 2.
#[derive(Deserialize)]
struct OldFields {
    client: OldClient,
}

#[derive(Deserialize)]
struct OldClient {
    /// Version 1 counted the missed packets at the load generator.
    not_sent: Option<u64>,
}

/// Turns a document of version 1 into one of version 2.
pub(crate) fn document(text: &str) -> serde_json::Result<Document> {
    let mut document: Document = serde_json::from_str(text)?;
    let missed = serde_json::from_str(text).ok().and_then(|OldFields { client }| client.not_sent);
    // The first results had no `offered`.
    if let (Mode::Open, None, Some(missed)) = (document.config.mode, document.offered, missed) {
        document.offered = Some(Offered::of(document.totals.sent, missed, None));
    }
    // Version 1 had no verdict of its own for a saturated load generator, and no list of problems.
    if document.verdict == Verdict::Pass && document.load_generator.saturated {
        document.verdict = Verdict::PassSaturated;
    }
    if document.verdict != Verdict::Pass {
        document.problems = vec![document.verdict];
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::document::tests;
    use crate::result::json;
    use serde_json::{Value, json};

    /// A document with the names of version 1. `change` sets its values.
    fn read(change: impl FnOnce(&mut Value)) -> Document {
        let mut value = serde_json::to_value(tests::document()).unwrap();
        for (path, new, old) in [
            ("", "load_generator", "client"),
            ("/integrity", "corrupted", "altered"),
            ("/integrity", "duplicated", "doubled"),
            ("/config", "builtin_server", "own_server"),
            ("/config", "builtin_server_threads", "own_server_threads"),
        ] {
            let fields = value.pointer_mut(path).unwrap().as_object_mut().unwrap();
            let field = fields.remove(new).unwrap();
            fields.insert(old.to_owned(), field);
        }
        value.as_object_mut().unwrap().remove("problems");
        change(&mut value);
        document(&json::to_line(&value)).unwrap()
    }

    #[test]
    fn the_fields_of_version_1_get_their_names_of_version_2() {
        let document = read(|value| {
            value["client"]["not_sent"] = json!(3);
            value["client"]["saturated"] = json!(true);
            value["config"]["mode"] = json!("open");
            value["integrity"]["altered"] = json!(1);
            value["integrity"]["doubled"] = json!(2);
            value["totals"]["sent"] = json!(9);
            value["verdict"] = json!("pass");
            let metric = json!({
                "figure": "rate", "base": 1.0, "new": 1.0, "difference_pct": 0.0, "low_pct": 0.0, "high_pct": 0.0,
                "limit_pct": null, "finding": "no_difference",
            });
            value["baseline"] = json!({
                "base": "base.json", "confidence_pct": 99.0, "figures": [metric], "differs": [], "verdict": "pass",
            });
        });
        let Document { load_generator, config, integrity, baseline, offered, verdict, problems, .. } =
            document;
        assert!(load_generator.saturated && config.builtin_server);
        assert_eq!((integrity.corrupted, integrity.duplicated), (1, 2));
        assert_eq!(baseline.unwrap().metrics.len(), 1);
        assert_eq!(offered, Some(Offered { asked: 12, pct: 75.0, missed: 3, limit: None }));
        assert_eq!((verdict, problems), (Verdict::PassSaturated, vec![Verdict::PassSaturated]));
    }

    #[test]
    fn a_document_without_optional_fields_gets_none() {
        let document = read(|value| value["verdict"] = json!("client_saturated"));
        assert_eq!((document.verdict, document.problems), (Verdict::Saturated, vec![Verdict::Saturated]));
        assert_eq!(document.offered, None);
        assert_eq!(read(|value| value["verdict"] = json!("pass")).problems, []);
    }
}
