//! The result as a page for a browser, or its charts as a picture. One file, that needs no other and no network.
//!
//! ```text
//!   document --> charts --> chart: series between axes --> canvas: SVG in the colours of a light page
//!      |                                                      |
//!      |                              picture: as it is  <----+----> page: colours by the reader's preference
//!      +--------------- fields, markup: tables ------------------------^
//! ```
//!
//! What is measured and judged is elsewhere: nothing here counts, and every word of the document is escaped.

mod page;

mod markup;

mod fields;

mod svg;

mod charts;

mod timeline;

mod chart;

mod scale;

mod canvas;

mod palette;

use std::path::Path;

use anyhow::Context;

use crate::report::sink::Sink;
use crate::result::document::Document;

/// The page, or the charts alone for a file whose name ends in `.svg`.
pub(crate) fn text(document: &Document, path: &Path) -> anyhow::Result<String> {
    match path.extension() {
        Some(extension) if extension == "svg" => {
            svg::svg(document).context("there is nothing to draw: the result has no sample")
        }
        _ => Ok(page::page(document)),
    }
}

/// An earlier result, all of whose histograms can be drawn.
pub(crate) fn read(result: &Path) -> anyhow::Result<Document> {
    let document = Document::read(result)?;
    let latencies = &document.latency_ns;
    for latency in [Some(&latencies.service), latencies.response.as_ref()].into_iter().flatten() {
        latency.histogram().with_context(|| format!("{}: an hdr_v2 is no histogram", result.display()))?;
    }
    Ok(document)
}

/// Writes the page of an earlier result.
pub(crate) fn write(document: &Document, path: &Path) -> anyhow::Result<()> {
    let text = text(document, path)?;
    Sink::create(path)?.all(&text)
}
