//! What the server prints to its user, and the error for an address that it cannot listen on.

use std::io::{self, Write};

use pktconn::Addr;

/// Prints a line and flushes it, so that a program that reads a pipe sees it at once. Ignores a closed standard output:
/// the server keeps serving.
pub(crate) fn print_line(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// "1 connection", "2 connections".
pub(crate) fn format_connections(count: u64) -> String {
    format!("{count} connection{}", if count == 1 { "" } else { "s" })
}

/// One line: the error, and what to do about it.
pub(crate) fn cannot_listen(addr: &Addr, error: impl Into<anyhow::Error>) -> anyhow::Error {
    use io::ErrorKind as Kind;
    let error = error.into();
    let cause = error.root_cause();
    let advice = match cause.downcast_ref().map_or(Kind::Other, io::Error::kind) {
        Kind::AddrInUse if addr.unix_path().is_some() => {
            "stop the program that uses it, or remove the file if it is not a socket"
        }
        _ if addr.unix_path().is_some() => "choose another path or other options with --listen unix:PATH",
        Kind::AddrInUse => "stop the program that uses it, or choose another port (0: a free one)",
        Kind::AddrNotAvailable => "choose an address of this machine, or 0.0.0.0 for all of them",
        Kind::PermissionDenied => "choose a port from 1024 on",
        _ => "choose another address, HOST:PORT",
    };
    anyhow::anyhow!("cannot listen on {addr}; {advice}: {cause}")
}

/// An error and its causes in one line. Errors of `pktconn` repeat the text of their source, which is printed only
/// once.
pub(crate) fn error_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for text in error.chain().map(ToString::to_string).filter(|text| !text.is_empty()) {
        if line.is_empty() {
            line = text;
        } else if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
    }
    line
}
