//! A value as one line of JSON, and what all documents say of the program.

use serde::Serialize;

use super::document::Tool;

pub(crate) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a document has no key but strings")
}

pub(crate) fn tool() -> Tool {
    Tool { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}
