//! What is printed and written at the end of a run, and in which form.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;

use crate::report::hgrm;
use crate::report::html;
use crate::report::sink::Sink;
use crate::report::text;
use crate::result::document::Document;
use crate::result::json;
use crate::result::verdict::Verdict;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    /// One document, at the end.
    Json,
    /// Lines of JSON as it runs, and the document at the end.
    Ndjson,
    /// A row an interval as it runs.
    Csv,
}

impl Format {
    /// That of a file of this name.
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
    /// A page, or a picture.
    pub(crate) html: Option<PathBuf>,
}

impl Output {
    /// Refuses a file that two of them would be written to.
    pub(crate) fn check(&self) -> Result<(), String> {
        let files = [&self.path, &self.hdr_log, &self.hgrm, &self.html].map(Option::as_deref);
        let mut files: Vec<_> = files.into_iter().flatten().collect();
        files.sort_unstable();
        match files.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("{} is given twice; write to files of their own", pair[0].display())),
            None => Ok(()),
        }
    }

    /// Whether anything is written while a run goes on.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.format, Format::Ndjson | Format::Csv) || self.hdr_log.is_some()
    }

    /// Whether standard output is for people.
    pub(crate) fn prints_text(&self) -> bool {
        self.format == Format::Text || self.path.is_some()
    }

    /// Makes all files, so that what cannot be written is known before the run.
    pub(crate) fn open(self) -> anyhow::Result<Sinks> {
        Ok(Sinks {
            format: self.format,
            is_file: self.path.is_some(),
            result: self.path.as_deref().map_or_else(|| Ok(Sink::stdout()), Sink::create)?,
            hdr_log: self.hdr_log.as_deref().map(Sink::create).transpose()?,
            hgrm: self.hgrm.as_deref().map(Sink::create).transpose()?,
            html: self.html.map(|path| Sink::create(&path).map(|sink| (path, sink))).transpose()?,
        })
    }
}

/// Nothing is written but at the end of a run, to standard output.
impl Default for Output {
    fn default() -> Self {
        Self { format: Format::Text, path: None, hdr_log: None, hgrm: None, html: None }
    }
}

/// Where each of them goes.
pub(crate) struct Sinks {
    pub(crate) format: Format,
    is_file: bool,
    pub(crate) result: Sink,
    pub(crate) hdr_log: Option<Sink>,
    hgrm: Option<Sink>,
    html: Option<(PathBuf, Sink)>,
}

impl Sinks {
    /// Writes what is written at the end, and gives the exit code: what cannot be written is a failure, and hides nothing that
    /// is worse.
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

    /// What fails does not keep the rest from being written.
    fn end(mut self, document: &Document) -> anyhow::Result<()> {
        match self.format {
            Format::Json => self.result.line(&json::text(document)),
            Format::Ndjson => {
                self.result.line(&json::text(&serde_json::json!({ "event": "result", "result": document })));
            }
            // Its rows are all there is.
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
            let histogram = document.latency_ns.primary().histogram();
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

/// The text for people.
fn print_to(sink: &mut Sink, document: &Document) {
    // Else nothing was measured: a line on standard error says it all.
    if document.errors.connect == 0 {
        sink.line(&text::text(document));
    }
}
