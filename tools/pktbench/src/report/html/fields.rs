//! Turns a part of the document into names and values for people. The unit of a value is taken from the end of the
//! field's name (`_ns`, `_bytes`, `_pct`), so a new field of the document appears in the page without a change here.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

use crate::result::units;

/// The names and values of all fields that are not `null` and not empty.
pub(super) fn fields(part: &impl Serialize) -> Vec<(String, String)> {
    // All parts of a document serialize to objects.
    let Ok(Value::Object(fields)) = serde_json::to_value(part) else { return Vec::new() };
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    fields.iter().filter(|(_, value)| !is_empty(value)).map(|(name, value)| field(name, value)).collect()
}

fn field(name: &str, value: &Value) -> (String, String) {
    let (stem, text) = match value {
        Value::Bool(true) => (name, "yes".to_owned()),
        Value::Bool(false) => (name, "no".to_owned()),
        Value::String(text) => (name, text.clone()),
        Value::Number(number) => with_unit(name, number.as_f64().unwrap_or_default(), number.as_u64()),
        Value::Array(values) if values.iter().all(Value::is_string) => {
            let names = values.iter().filter_map(Value::as_str).map(label);
            (name, names.collect::<Vec<_>>().join(", "))
        }
        _ => (name, value.to_string()),
    };
    (label(stem), text)
}

/// The name that people read. Some JSON keys differ from the terms of the report.
fn label(key: &str) -> String {
    match key {
        "altered" => "corrupted".to_owned(),
        "doubled" => "duplicated".to_owned(),
        "not_sent" => "missed".to_owned(),
        "own_server" => "built-in server".to_owned(),
        "builtin_server_threads" => "built-in server threads".to_owned(),
        "first" => "first error".to_owned(),
        "by_segment" => "connections by TCP segment".to_owned(),
        _ => key.replace('_', " "),
    }
}

fn with_unit(name: &str, number: f64, whole: Option<u64>) -> (&str, String) {
    let plain = || match whole {
        Some(whole) => units::count(whole),
        None if number.fract() == 0.0 => units::rate(number),
        None => format!("{number:.2}"),
    };
    if let Some(stem) = name.strip_suffix("_per_s") {
        (stem, format!("{}/s", units::rate(number)))
    } else if let Some(stem) = name.strip_suffix("_unix_ns") {
        let time = UNIX_EPOCH + Duration::from_nanos(whole.unwrap_or_default());
        (stem, humantime::format_rfc3339_millis(time).to_string())
    } else if let Some(stem) = name.strip_suffix("_ns") {
        (stem, units::time(number))
    } else if let Some(stem) = name.strip_suffix("_s") {
        let zero = (number == 0.0).then(|| "0 s".to_owned());
        (stem, zero.unwrap_or_else(|| units::time(number * 1e9)))
    } else if let Some(stem) = name.strip_suffix("_bytes") {
        (stem, format!("{} B", plain()))
    } else if let Some(stem) = name.strip_suffix("_pct") {
        (stem, format!("{number:.0} %"))
    } else if name == "seed" || name == "tcp_port" {
        // Without thousands separators, so that it can be copied to the option.
        (name, number_as_typed(number, whole))
    } else {
        (name, plain())
    }
}

fn number_as_typed(number: f64, whole: Option<u64>) -> String {
    whole.map_or_else(|| number.to_string(), |whole| whole.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_end_of_a_name_gives_the_unit_of_the_value() {
        let part = json!({
            "a_max_bytes": 33_554_432, "corrupted": 5, "b_tls": false, "c_s": 0.5, "d_lag_p99_ns": 12_300,
            "e_pct": 81.6, "f_per_s": 5000.0, "g": null, "h": "<0>", "i": 1234, "j_s": 0.0,
            "k_start_unix_ns": 1_000_000_000, "rate": 20_000.0, "seed": 1234, "tcp_port": 14_572, "x": [],
            "y": ["a_b", "c"], "z": [1, 2],
        });
        let rows: Vec<_> =
            fields(&part).into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let expected = [
            "a max: 33,554,432 B",
            "b tls: no",
            "c: 500 ms",
            "corrupted: 5",
            "d lag p99: 12.3 µs",
            "e: 82 %",
            "f: 5,000/s",
            "h: <0>",
            "i: 1,234",
            "j: 0 s",
            "k start: 1970-01-01T00:00:01.000Z",
            "rate: 20,000",
            "seed: 1234",
            "tcp port: 14572",
            "y: a b, c",
            "z: [1,2]",
        ];
        assert_eq!(rows, expected);
    }
}
