//! A server of a comparison: its name and the command that starts it.

use std::str::FromStr;

use anyhow::{Context, Result, ensure};

/// `name=command line`. Spaces separate the words of the command; there is no quoting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSpec {
    /// Name in the results.
    pub name: String,
    /// The program and its arguments, never empty.
    pub command: Vec<String>,
}

impl ServerSpec {
    /// Returns true if its packets have a checksum: then its name ends in `+crc`.
    pub fn has_checksum(&self) -> bool {
        self.name.ends_with("+crc")
    }

    /// Replaces each word `{cert}` and `{key}` of the command with the path of a PEM file.
    #[must_use]
    pub fn with_certificate(mut self, cert: &str, key: &str) -> Self {
        for word in &mut self.command {
            match word.as_str() {
                "{cert}" => cert.clone_into(word),
                "{key}" => key.clone_into(word),
                _ => {}
            }
        }
        self
    }
}

impl FromStr for ServerSpec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, command) = text.split_once('=').context("expected NAME=COMMAND LINE")?;
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        ensure!(!name.trim().is_empty(), "the server {text:?} has no name");
        ensure!(!command.is_empty(), "the server {name:?} has no command");
        Ok(Self { name: name.trim().to_owned(), command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_may_contain_equal_signs() {
        let spec: ServerSpec = "go=echo --listen=127.0.0.1:0  -v".parse().unwrap();
        assert_eq!(spec.name, "go");
        assert_eq!(spec.command, ["echo", "--listen=127.0.0.1:0", "-v"]);
    }

    #[test]
    fn the_paths_of_the_certificate_replace_whole_words() {
        let spec: ServerSpec = "a=echo --cert {cert} --key {key} x{key}".parse().unwrap();
        let spec = spec.with_certificate("/c.pem", "/k.pem");
        assert_eq!(spec.command, ["echo", "--cert", "/c.pem", "--key", "/k.pem", "x{key}"]);
    }

    #[test]
    fn a_name_that_ends_in_crc_stands_for_packets_with_a_checksum() {
        let has_checksum = |text: &str| text.parse::<ServerSpec>().unwrap().has_checksum();
        assert!(has_checksum("pktecho+crc=pktecho --crc"));
        assert!(!has_checksum("pktecho=pktecho --crc"));
        assert!(!has_checksum("+crc32=pktecho"));
    }

    #[test]
    fn a_server_without_name_or_command_is_refused() {
        for text in ["echo", "=echo", "go=", "go=  "] {
            assert!(text.parse::<ServerSpec>().is_err(), "{text:?}");
        }
    }
}
