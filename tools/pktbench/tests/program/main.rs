//! Tests that run the real program. They are one test binary, because each binary would link the whole library again.

mod common;

mod usage;

mod manual;

mod runs;

mod targets;

mod sizes;

mod payloads;

mod replay;

mod faults;

mod open_loop;

mod stages;

mod output;

mod files;

mod hostile_files;

mod hostile_servers;

mod hostile_text;

mod html;

mod browser;

mod results;

mod starved;

mod metrics;

mod tui;

mod conform;
mod connections;

mod interop;
