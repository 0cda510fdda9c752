//! Writes the result at the end of a run, in the format and to the files of the command line, and gives the exit code.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;

use crate::report::hgrm;
use crate::report::html;
use crate::report::metrics::{Metrics, MetricsOptions};
use crate::report::sink::Sink;
use crate::report::text;
use crate::result::document::Document;
use crate::result::json;
use crate::result::verdict::Verdict;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A text report for people, at the end of the run.
    Text,
    /// One JSON document, at the end of the run.
    Json,
    /// A line of JSON per interval during the run, and the document at the end.
    Ndjson,
    /// A row per interval, during the run.
    Csv,
}

impl Format {
    /// The format that the extension of a file name asks for.
    pub(crate) fn of_file(path: &Path) -> Self {
        match path.extension().and_then(OsStr::to_str) {
            Some("json") => Self::Json,
            Some("ndjson") => Self::Ndjson,
            Some("csv") => Self::Csv,
            _ => Self::Text,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    /// `None` for standard output.
    pub(crate) path: Option<PathBuf>,
    pub(crate) hdr_log: Option<PathBuf>,
    pub(crate) hgrm: Option<PathBuf>,
    /// An HTML page, or an SVG picture if the name ends in `.svg`.
    pub(crate) html: Option<PathBuf>,
    pub(crate) metrics: Option<MetricsOptions>,
}

impl Output {
    /// An error if two outputs go to the same file.
    pub(crate) fn check(&self) -> Result<(), String> {
        let files = [&self.path, &self.hdr_log, &self.hgrm, &self.html].map(Option::as_deref);
        let mut files: Vec<_> = files.into_iter().flatten().collect();
        files.sort_unstable();
        match files.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => {
                Err(format!("{} is given twice; use a different file for each output", pair[0].display()))
            }
            None => Ok(()),
        }
    }

    /// Whether lines are written while the run goes on.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.format, Format::Ndjson | Format::Csv) || self.hdr_log.is_some()
    }

    /// Whether standard output gets text for people.
    pub(crate) fn prints_text(&self) -> bool {
        self.format == Format::Text || self.path.is_some()
    }

    /// Opens all files and the address of the metrics, so that what cannot be opened is an error before the run.
    pub(crate) fn open(self) -> anyhow::Result<Sinks> {
        Ok(Sinks {
            // Opened before the files: a port in use is an error that leaves them alone.
            metrics: self.metrics.as_ref().map(Metrics::serve).transpose()?,
            format: self.format,
            is_file: self.path.is_some(),
            result: self.path.as_deref().map_or_else(|| Ok(Sink::stdout()), Sink::create)?,
            hdr_log: self.hdr_log.as_deref().map(Sink::create).transpose()?,
            hgrm: self.hgrm.as_deref().map(Sink::create).transpose()?,
            html: self.html.map(|path| Sink::create(&path).map(|sink| (path, sink))).transpose()?,
        })
    }
}

/// Text to standard output at the end of the run, and no files.
impl Default for Output {
    fn default() -> Self {
        Self { format: Format::Text, path: None, hdr_log: None, hgrm: None, html: None, metrics: None }
    }
}

/// The open destinations of an [`Output`].
pub(crate) struct Sinks {
    pub(crate) format: Format,
    is_file: bool,
    pub(crate) result: Sink,
    pub(crate) hdr_log: Option<Sink>,
    hgrm: Option<Sink>,
    html: Option<(PathBuf, Sink)>,
    pub(crate) metrics: Option<Metrics>,
}

impl Sinks {
    /// Writes the result and returns the exit code. A failed write counts as [`Verdict::Failed`], unless the verdict of
    /// the document is worse.
    pub(crate) fn exit(self, document: &Document) -> ExitCode {
        let ended = self.end(document).map_or_else(
            |error| {
                eprintln!("error: {error:#}");
                Verdict::Failed
            },
            |()| Verdict::Pass,
        );
        ExitCode::from(document.verdict.worse(ended).exit_code())
    }

    /// Writes everything even if a part fails, and returns the first failure.
    fn end(mut self, document: &Document) -> anyhow::Result<()> {
        match self.format {
            Format::Json => self.result.line(&json::to_line(document)),
            Format::Ndjson => {
                self.result
                    .line(&json::to_line(&serde_json::json!({ "event": "result", "result": document })));
            }
            // The rows were written during the run.
            Format::Csv => {}
            Format::Text => print_to(&mut self.result, document),
        }
        let mut ends = vec![self.result.end()];
        if self.is_file {
            let mut stdout = Sink::stdout();
            print_to(&mut stdout, document);
            ends.push(stdout.end());
        }
        if let Some(sink) = self.hgrm {
            let histogram = document.latency_ns.primary().all();
            ends.push(histogram.and_then(|histogram| sink.all(&hgrm::table(&histogram))));
        }
        if let Some((path, sink)) = self.html {
            match html::text(document, &path) {
                Ok(text) => ends.push(sink.all(&text)),
                Err(problem) => eprintln!("warning: {}: {problem}", path.display()),
            }
        }
        ends.extend(self.hdr_log.map(Sink::end));
        ends.into_iter().collect()
    }
}

/// Writes the text for people.
fn print_to(sink: &mut Sink, document: &Document) {
    // After a failed connect nothing was measured; the error on standard error is enough.
    if document.errors.connect == 0 {
        sink.line(&text::text(document));
    }
}
