//! Attacks by clients on the open Internet. A healthy client runs at the same time and must be served throughout.
//!
//! The tests run one after another. The healthy client sends a packet every millisecond and checks the reply. The tests
//! assert counts and memory: how many replies it gets during the attack, and how much the server holds. With
//! `PKTCONN_TIMES=1`, they also compare its p99 during the attack with its p99 alone; that needs an idle machine.
//!
//! Attackers connect from 127.0.0.1. A healthy client connects from there, too, if the attack must not harm even clients
//! that share the attacker's address. Otherwise it connects from 127.0.0.2.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

// What the tests share.
mod attack;
mod client;
mod healthy;
mod limits;
mod new_clients;
mod process;
mod streams;

// The attacks.
mod connect_flood;
mod default_limits;
mod empty_packets;
mod handshakes;
mod many_clients;
mod memory_flood;
mod metrics;
mod never_read;
mod open_files;
mod resets;
mod silent_tls;
mod slow_readers;
mod slow_senders;
mod stop;
