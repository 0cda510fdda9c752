//! A scrape of the page of `--metrics`.

use std::io::{self, ErrorKind, Read, Write};

pub(crate) const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Requests the page, and returns it with its head. An incomplete page is an error.
pub(crate) fn read_page(stream: &mut (impl Read + Write + ?Sized)) -> io::Result<String> {
    stream.write_all(REQUEST)?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let is_complete = response.starts_with("HTTP/1.1 200 OK\r\n")
        && response.contains("pktconn_connections_open ")
        && response.ends_with('\n');
    if is_complete { Ok(response) } else { Err(io::Error::new(ErrorKind::InvalidData, response)) }
}
