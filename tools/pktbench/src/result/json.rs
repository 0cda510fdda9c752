//! Writes a value as one line of JSON.

use serde::Serialize;

/// The JSON of `value`, without a line break.
pub(crate) fn to_line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("the keys of all maps are strings")
}
