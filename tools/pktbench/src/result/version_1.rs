//! Reads documents of the schema `pktbench/1`, by renaming their fields to those of `pktbench/2`. The manual lists the
//! differences.

use serde_json::Value;

pub(crate) const SCHEMA: &str = "pktbench/1";

/// Fields with another name: where they are (a JSON pointer), and the names in both versions.
const RENAMED: [(&str, &str, &str); 6] = [
    ("", "client", "load_generator"),
    ("/integrity", "altered", "corrupted"),
    ("/integrity", "doubled", "duplicated"),
    ("/config", "own_server", "builtin_server"),
    ("/config", "own_server_threads", "builtin_server_threads"),
    ("/baseline", "figures", "metrics"),
];

/// Turns a document of version 1 into one of version 2.
pub(crate) fn upgrade(document: &mut Value) {
    for (path, old, new) in RENAMED {
        rename(document.pointer_mut(path), old, new);
    }
    let metrics = document.pointer_mut("/baseline/metrics").and_then(Value::as_array_mut);
    metrics.into_iter().flatten().for_each(|metric| rename(Some(metric), "figure", "metric"));
    // Version 1 counted the missed packets at the load generator, and had no verdict of its own for a saturated one.
    let load_generator = document.pointer_mut("/load_generator").and_then(Value::as_object_mut);
    let missed = load_generator.and_then(|fields| fields.remove("not_sent"));
    let is_saturated = document["load_generator"]["saturated"] == true;
    let verdict = match document["verdict"].as_str() {
        Some("client_saturated") => "saturated",
        Some("pass") if is_saturated => "pass_saturated",
        Some(verdict) => verdict,
        None => return,
    };
    let verdict = Value::from(verdict);
    let offered = match (document["config"]["mode"] == "open", &document["offered"]) {
        (true, Value::Null) => Some(offered(&document["totals"]["sent"], missed.as_ref())),
        _ => None,
    };
    let Some(fields) = document.as_object_mut() else { return };
    if verdict != "pass" {
        fields.insert("problems".to_owned(), Value::Array(vec![verdict.clone()]));
    }
    fields.insert("verdict".to_owned(), verdict);
    fields.extend(offered.map(|offered| ("offered".to_owned(), offered)));
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

fn rename(part: Option<&mut Value>, old: &str, new: &str) {
    if let Some(fields) = part.and_then(Value::as_object_mut)
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
        let names: Vec<_> = document.as_object().unwrap().keys().collect();
        assert_eq!(names, ["config", "problems", "verdict"]);
    }
}
