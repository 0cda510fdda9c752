//! The options for sessions.

use std::time::Duration;

use clap::{Args, ValueEnum};
use pktconn::{SessionConfig, SessionMode};
use pktconn_tools::values::{parse_duration, parse_size};

#[derive(Debug, Args)]
#[command(next_help_heading = "Sessions")]
pub(crate) struct SessionOptions {
    /// Offer sessions: packets are echoed exactly once, over any number of lost connections [default: off]
    #[arg(long, value_enum, value_name = "MODE")]
    sessions: Option<Mode>,

    /// How long a session lives without a connection
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2m", requires = "sessions")]
    session_ttl: Duration,

    /// Maximum bytes of replies that are kept until the client has received them, per session
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "1MiB", requires = "sessions")]
    replay_bytes: u32,
}

/// [`SessionMode`] as a value of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Also serve clients without sessions
    Auto,
    /// Close the connections of clients without sessions
    Required,
}

impl SessionOptions {
    pub(crate) fn has_any(&self) -> bool {
        self.sessions.is_some()
    }

    /// `None` without sessions.
    pub(crate) fn config(&self) -> Option<SessionConfig> {
        let mode = match self.sessions? {
            Mode::Auto => SessionMode::Auto,
            Mode::Required => SessionMode::Required,
        };
        Some(SessionConfig::new().mode(mode).ttl(self.session_ttl).replay_bytes(self.replay_bytes))
    }
}
