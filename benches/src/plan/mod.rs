//! What a comparison runs, in the notation of the command line: regimes (`64x32`, `8x4:1048576`), payload sizes
//! (`0-2048`), servers (`name=command`).

mod sizes;
pub use sizes::SizeRange;

mod regime;
pub use regime::Regime;

mod server;
pub use server::ServerSpec;

mod standard;
pub use standard::{STANDARD_REGIMES, checked_servers, program_beside, standard_servers};
