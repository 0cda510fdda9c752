//! Writes a value as one line of JSON, and names the program for all documents.

use serde::Serialize;

use super::document::Tool;

pub(crate) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("all keys of a document are strings")
}

pub(crate) fn tool() -> Tool {
    Tool { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}
