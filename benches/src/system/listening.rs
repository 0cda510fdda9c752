//! The line `listening on ADDR`: servers print it, and the programs that start a server read it.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use anyhow::{Context, Result};

/// Prints `listening on ADDR` and flushes it, so that a program that reads a pipe sees it at once.
///
/// # Errors
///
/// Standard output is closed.
pub fn print_listening(address: SocketAddr) -> Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "listening on {address}")
        .and_then(|()| stdout.flush())
        .context("cannot print the address")
}

/// Finds the address in a line such as `listening on 127.0.0.1:4000`. Text before and after it is ignored.
pub(super) fn parse_listening(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("listening on ")?;
    after.split_whitespace().next()?.trim_end_matches([',', '.', ';']).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_what_follows_listening_on() {
        let address = Some("127.0.0.1:4000".parse().unwrap());
        assert_eq!(parse_listening("listening on 127.0.0.1:4000"), address);
        assert_eq!(parse_listening("INFO echo: listening on 127.0.0.1:4000, 1 thread"), address);
        assert_eq!(parse_listening("listening on [::1]:4000"), Some("[::1]:4000".parse().unwrap()));
        assert_eq!(parse_listening("listening on port 4000"), None);
        assert_eq!(parse_listening("starting"), None);
    }
}
