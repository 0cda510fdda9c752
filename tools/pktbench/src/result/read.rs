//! Reads documents from files: the output of `--json`, or the last line of the output of `--format ndjson`.
//!
//! A file may be of anyone. So its text becomes the types of the document at once: values of other shapes would need many
//! times its length.

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use pktconn_tools::input;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::result::document::{Document, SCHEMA};
use crate::result::limits;
use crate::result::version_1;

/// The longest file, in bytes: a run of ten days with an interval per second needs less. It ends a pipe that never does.
const MAX_FILE_LEN: u64 = 256 << 20;

/// The longest name of a schema that an error shows.
const MAX_SCHEMA_NAME: usize = 40;

/// The field that every version of the document has.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    schema: Cow<'a, str>,
}

/// A line of NDJSON. Every event has other fields.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    t_s: Option<f64>,
}

impl Document {
    /// Reads a document. The error is one line that names the file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let bytes = input::read(path, MAX_FILE_LEN).with_context(|| format!("cannot read {name}"))?;
        // A run that was killed may have left half a character at the end.
        let text = String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let text = document_in(&text);
        if let Some(progress) = unfinished(text) {
            bail!("{name} is the output of a run that was ended before its result: {progress}; run it again");
        }
        ensure!(
            text.trim_start().starts_with('{'),
            "{name} is not a result of 'pktbench --json': it does not begin with '{{'"
        );
        let schema = match serde_json::from_str(text) {
            Ok(Head { schema }) => schema,
            Err(problem) => bail!("{name} is not a result of 'pktbench --json': {problem}"),
        };
        let document = match &*schema {
            SCHEMA => serde_json::from_str(text),
            version_1::SCHEMA => version_1::document(text),
            _ => bail!(
                "{name} has the schema {:?}; this version of pktbench reads {SCHEMA:?} and {:?}",
                schema.chars().take(MAX_SCHEMA_NAME).collect::<String>(),
                version_1::SCHEMA
            ),
        };
        let document = document.with_context(|| format!("{name} does not match the schema {schema:?}"))?;
        limits::check(&document, text.len()).map_err(|problem| anyhow::anyhow!("{name} {problem}"))?;
        Ok(document)
    }
}

/// Returns the document in the last line of NDJSON. Other text is returned unchanged.
fn document_in(text: &str) -> &str {
    let last = text.trim_end().rsplit('\n').next().unwrap_or_default();
    let event = serde_json::from_str(last).ok().filter(|event: &Event<'_>| event.event == "result");
    event.and_then(|event| event.result).map_or(text, RawValue::get)
}

/// How far a run came whose NDJSON has no result. `None` if the text is not such an output.
fn unfinished(text: &str) -> Option<String> {
    if !text.starts_with("{\"event\":") {
        return None;
    }
    // The last line may be cut.
    let events = text.lines().map_while(|line| serde_json::from_str::<Event<'_>>(line).ok());
    let (mut count, mut last_s) = (0_u64, 0.0);
    for interval in events.filter(|event| event.event == "interval") {
        count += 1;
        last_s = interval.t_s.unwrap_or_default();
    }
    Some(if count == 0 { "0 intervals".to_owned() } else { format!("{count} intervals up to {last_s:.1} s") })
}

#[cfg(test)]
mod tests {
    use std::fs;

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
            ("[1, 2]", "is not a result of 'pktbench --json': it does not begin with '{'"),
            ("{\"schema\"", "is not a result of 'pktbench --json': EOF while parsing"),
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

    #[test]
    fn a_long_file_and_a_device_are_refused_before_they_are_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        // A hole: it takes no disk.
        fs::File::create(&path).unwrap().set_len(MAX_FILE_LEN + 1).unwrap();
        let problem = Document::read(&path).unwrap_err();
        assert!(
            format!("{problem:#}").ends_with("it has more than 268435456 bytes, the limit"),
            "{problem:#}"
        );
        let problem = Document::read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(format!("{problem:#}"), "cannot read /dev/zero: it is a device; give a file");
    }

    #[test]
    fn a_document_with_too_many_parts_is_refused() {
        let percentiles = vec![(50.0, Some(1)); 101];
        let mut document = document();
        document.latency_ns.service.percentiles = percentiles;
        let problem = read(&json::to_line(&document)).unwrap_err();
        assert!(problem.ends_with("run.json has 101 percentiles; the limit is 100"), "{problem}");
    }
}
