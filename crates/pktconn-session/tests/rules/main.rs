//! Each rule of `SPEC.md` alone, with peers that keep it and peers that break it.

mod acknowledging;
mod closing;
mod falling_back;
mod handshake;
mod liveness;
mod memory;
mod moving;
mod pair;
mod replay;
