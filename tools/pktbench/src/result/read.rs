//! Reads documents from files: the output of `--json`, or the last line of the output of `--format ndjson`.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::result::document::{Document, SCHEMA};
use crate::result::version_1;

/// The field that every version of the document has.
#[derive(Deserialize)]
struct Head {
    schema: String,
}

impl Document {
    /// Reads a document. The error is one line that names the file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let bytes = fs::read(path).with_context(|| format!("cannot read {name}"))?;
        // A run that was killed may have left half a character at the end.
        let text = without_events(String::from_utf8_lossy(&bytes).into_owned());
        if let Some(progress) = unfinished(&text) {
            bail!("{name} is the output of a run that was ended before its result: {progress}; run it again");
        }
        let mut value: Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(problem) => bail!("{name} is not a result of 'pktbench --json': {problem}"),
        };
        let schema = match Head::deserialize(&value) {
            Ok(Head { schema }) => schema,
            Err(problem) => bail!("{name} is not a result of 'pktbench --json': {problem}"),
        };
        match schema.as_str() {
            SCHEMA => {}
            version_1::SCHEMA => version_1::upgrade(&mut value),
            _ => bail!(
                "{name} has the schema {schema:?}; this version of pktbench reads {SCHEMA:?} and {:?}",
                version_1::SCHEMA
            ),
        }
        let document = Self::deserialize(value);
        let document = document.with_context(|| format!("{name} does not match the schema {schema:?}"))?;
        Ok(document)
    }
}

/// Returns the document in the last line of NDJSON. Other text is returned unchanged.
fn without_events(text: String) -> String {
    let last = text.trim_end().rsplit('\n').next().unwrap_or_default();
    let event = serde_json::from_str(last).ok().filter(|event: &Value| event["event"] == "result");
    event.map_or(text, |event| event["result"].to_string())
}

/// How far a run came whose NDJSON has no result. `None` if the text is not such an output.
fn unfinished(text: &str) -> Option<String> {
    if !text.starts_with("{\"event\":") {
        return None;
    }
    // The last line may be cut.
    let events = text.lines().map_while(|line| serde_json::from_str::<Value>(line).ok());
    let intervals: Vec<_> = events.filter(|event| event["event"] == "interval").collect();
    Some(match intervals.last() {
        None => "0 intervals".to_owned(),
        Some(last) => {
            format!("{} intervals up to {:.1} s", intervals.len(), last["t_s"].as_f64().unwrap_or_default())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::document::tests::document;
    use crate::result::json;

    fn read(text: &str) -> Result<Document, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        fs::write(&path, text).unwrap();
        Document::read(&path).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_written_document_can_be_read() {
        let document = document();
        assert_eq!(read(&format!("{}\n", json::to_line(&document))), Ok(document));
    }

    #[test]
    fn the_last_line_of_ndjson_has_the_document() {
        let document = document();
        let lines = format!(
            "{{\"event\":\"start\"}}\n{{\"event\":\"result\",\"result\":{}}}\n",
            json::to_line(&document)
        );
        assert_eq!(read(&lines), Ok(document));
    }

    #[test]
    fn the_output_of_a_killed_run_is_refused_with_its_progress() {
        let start = "{\"event\":\"start\",\"schema\":\"pktbench/1\"}\n";
        let interval = |t_s: u32| format!("{{\"event\":\"interval\",\"t_s\":{t_s}.0,\"received\":9}}\n");
        let intervals = interval(1) + &interval(2);
        let cases = [
            (start.to_owned(), "0 intervals"),
            (start[..20].to_owned(), "0 intervals"),
            (format!("{start}{intervals}"), "2 intervals up to 2.0 s"),
            (format!("{start}{intervals}{{\"event\":\"inter"), "2 intervals up to 2.0 s"),
            (
                format!("{start}{intervals}{{\"event\":\"result\",\"result\":{{\"sch"),
                "2 intervals up to 2.0 s",
            ),
        ];
        for (text, progress) in cases {
            let problem = read(&text).unwrap_err();
            let expected =
                format!("run.json is the output of a run that was ended before its result: {progress};");
            assert!(problem.contains(&expected) && !problem.contains('\n'), "{text}: {problem}");
        }
    }

    #[test]
    fn a_file_without_a_document_is_a_one_line_error_with_the_reason() {
        let cases = [
            ("", "is not a result of 'pktbench --json'"),
            ("packets 5", "is not a result of 'pktbench --json'"),
            ("[1, 2]", "is not a result of 'pktbench --json'"),
            (r#"{"verdict": "pass"}"#, "missing field `schema`"),
            (
                r#"{"schema": "pktbench/3"}"#,
                "has the schema \"pktbench/3\"; this version of pktbench reads \"pktbench/2\" and \"pktbench/1\"",
            ),
            (r#"{"schema": "pktbench/2"}"#, "does not match the schema \"pktbench/2\": missing field"),
            (r#"{"schema": "pktbench/1"}"#, "does not match the schema \"pktbench/1\": missing field"),
        ];
        for (text, expected) in cases {
            let problem = read(text).unwrap_err();
            assert!(problem.contains("run.json") && problem.contains(expected), "{text}: {problem}");
            assert!(!problem.contains('\n'), "{problem}");
        }
        let missing = Document::read(Path::new("nowhere/run.json")).unwrap_err();
        assert!(
            format!("{missing:#}").starts_with("cannot read nowhere/run.json: No such file"),
            "{missing:#}"
        );
    }
}
