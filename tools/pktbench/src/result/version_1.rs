//! Reads documents of the schema `pktbench/1`, by renaming their fields to those of `pktbench/2`. The manual lists the
//! differences.

use serde_json::{Map, Value};

pub(crate) const SCHEMA: &str = "pktbench/1";

/// Fields with another name: where they are, and the names in both versions.
const RENAMED: [(&[&str], &str, &str); 6] = [
    (&[], "client", "load_generator"),
    (&["integrity"], "altered", "corrupted"),
    (&["integrity"], "doubled", "duplicated"),
    (&["config"], "own_server", "builtin_server"),
    (&["config"], "own_server_threads", "builtin_server_threads"),
    (&["baseline"], "figures", "metrics"),
];

/// Turns a document of version 1 into one of version 2.
pub(crate) fn upgrade(document: &mut Value) {
    for (path, old, new) in RENAMED {
        rename(path.iter().fold(&mut *document, |part, name| &mut part[*name]), old, new);
    }
    for metric in document["baseline"]["metrics"].as_array_mut().into_iter().flatten() {
        rename(metric, "figure", "metric");
    }
    let verdict = document["verdict"].take();
    // Version 1 counted the missed packets at the load generator, and had no verdict of its own for a saturated one.
    let missed = document["load_generator"].as_object_mut().and_then(|fields| fields.remove("not_sent"));
    let is_saturated = document["load_generator"]["saturated"] == true;
    document["verdict"] = match verdict.as_str() {
        Some("client_saturated") => "saturated".into(),
        Some("pass") if is_saturated => "pass_saturated".into(),
        _ => verdict,
    };
    if document["verdict"] != "pass" {
        document["problems"] = Value::Array(vec![document["verdict"].clone()]);
    }
    if document["config"]["mode"] == "open" && document["offered"].is_null() {
        document["offered"] = offered(&document["totals"]["sent"], missed.as_ref());
    }
    // What was looked up and not found was added as null.
    if document["baseline"].is_null() {
        document.as_object_mut().map(|fields| fields.remove("baseline"));
    }
}

/// How much was offered, from the counts of the first results, which did not have it.
fn offered(sent: &Value, missed: Option<&Value>) -> Value {
    let (Some(sent), Some(missed)) = (sent.as_u64(), missed.and_then(Value::as_u64)) else {
        return Value::Null;
    };
    let asked = sent.saturating_add(missed);
    let pct = if asked == 0 { 100.0 } else { sent as f64 / asked as f64 * 100.0 };
    let fields =
        [("asked", asked.into()), ("pct", pct.into()), ("missed", missed.into()), ("limit", Value::Null)];
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn rename(part: &mut Value, old: &str, new: &str) {
    let fields: Option<&mut Map<String, Value>> = part.as_object_mut();
    if let Some(fields) = fields
        && let Some(value) = fields.remove(old)
    {
        fields.insert(new.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_fields_of_version_1_get_their_names_of_version_2() {
        let mut document = json!({
            "client": {"cpu_pct": 5.0, "not_sent": 3, "saturated": true},
            "config": {"mode": "open", "own_server": true, "own_server_threads": 1},
            "integrity": {"altered": 1, "doubled": 2, "lost": 4},
            "totals": {"sent": 9},
            "baseline": {"figures": [{"figure": "rate"}]},
            "verdict": "pass",
        });
        upgrade(&mut document);
        let expected = json!({
            "load_generator": {"cpu_pct": 5.0, "saturated": true},
            "config": {"mode": "open", "builtin_server": true, "builtin_server_threads": 1},
            "integrity": {"corrupted": 1, "duplicated": 2, "lost": 4},
            "totals": {"sent": 9},
            "baseline": {"metrics": [{"metric": "rate"}]},
            "offered": {"asked": 12, "pct": 75.0, "missed": 3, "limit": null},
            "verdict": "pass_saturated",
            "problems": ["pass_saturated"],
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn a_document_without_optional_fields_gets_none() {
        let mut document = json!({"config": {"mode": "closed"}, "verdict": "client_saturated"});
        upgrade(&mut document);
        assert_eq!(document["verdict"], "saturated");
        assert!(document.get("baseline").is_none() && document["offered"].is_null(), "{document}");
    }
}
