//! What is said on standard output, and of an address that cannot be listened on.

use std::io::{self, Write};

use pktconn::Addr;

/// Prints a line at once, also into a pipe. A reader that has gone away is no reason to stop serving.
pub(crate) fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// What is wrong with the address, and what to do about it, in one line.
pub(crate) fn cannot_listen(addr: &Addr, error: impl Into<anyhow::Error>) -> anyhow::Error {
    use io::ErrorKind as Kind;
    let error = error.into();
    let cause = error.root_cause();
    let advice = match cause.downcast_ref().map_or(Kind::Other, io::Error::kind) {
        Kind::AddrInUse if addr.unix_path().is_some() => {
            "stop the program that has it, or remove the file, where it is no socket"
        }
        _ if addr.unix_path().is_some() => "choose another path with --listen unix:PATH",
        Kind::AddrInUse => "stop the program that has it, or choose another port (0: a free one)",
        Kind::AddrNotAvailable => "choose an address of this machine, or 0.0.0.0 for all of them",
        Kind::PermissionDenied => "choose a port from 1024 on",
        _ => "choose another address, HOST:PORT",
    };
    anyhow::anyhow!("cannot listen on {addr}; {advice}: {cause}")
}
