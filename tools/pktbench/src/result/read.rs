//! Documents from files.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::result::document::{Document, SCHEMA};

/// What every version of the document has.
#[derive(Deserialize)]
struct Head {
    schema: String,
}

impl Document {
    /// The error is one line that names the file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        let text = without_events(text);
        match serde_json::from_str(&text) {
            Ok(Head { schema }) if schema == SCHEMA => {}
            Ok(Head { schema }) => bail!("{name} is of {schema:?}, and this program reads {SCHEMA} alone"),
            Err(problem) => bail!("{name} is no result of 'pktbench --json': {problem}"),
        }
        serde_json::from_str(&text).with_context(|| format!("{name} is not what {SCHEMA} says"))
    }
}

/// The document at the end of NDJSON; what is something else is left as it is.
fn without_events(text: String) -> String {
    let last = text.trim_end().rsplit('\n').next().unwrap_or_default();
    let event = serde_json::from_str(last).ok().filter(|event: &Value| event["event"] == "result");
    event.map_or(text, |event| event["result"].to_string())
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
    fn what_was_written_is_read() {
        let document = document();
        assert_eq!(read(&format!("{}\n", json::text(&document))), Ok(document));
    }

    #[test]
    fn the_last_line_of_ndjson_has_the_document() {
        let document = document();
        let lines = format!(
            "{{\"event\":\"start\"}}\n{{\"event\":\"result\",\"result\":{}}}\n",
            json::text(&document)
        );
        assert_eq!(read(&lines), Ok(document));
        assert!(read("{\"event\":\"start\"}\n").is_err());
    }

    #[test]
    fn what_is_no_document_is_named_in_one_line_with_the_reason() {
        let cases = [
            ("", "is no result of 'pktbench --json'"),
            ("packets 5", "is no result of 'pktbench --json'"),
            ("[1, 2]", "is no result of 'pktbench --json'"),
            (r#"{"verdict": "pass"}"#, "missing field `schema`"),
            (r#"{"schema": "pktbench/2"}"#, "is of \"pktbench/2\", and this program reads pktbench/1"),
            (r#"{"schema": "pktbench/1"}"#, "is not what pktbench/1 says: missing field"),
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
