//! What the benchmarks run, in the notation of their command lines: regimes (`64x32`: connections x packets outstanding
//! on each; `8x4:1048576`: with payload sizes), workloads (`tls:64x32`: a regime, and what its connections do), payload
//! sizes (`0-2048`), servers (`name=command`).

mod sizes;
pub use sizes::SizeRange;

mod regime;
pub use regime::Regime;

mod workload;
pub use workload::{Workload, WorkloadKind};

mod server;
pub use server::ServerSpec;

mod standard;
pub use standard::{STANDARD_WORKLOADS, checked_servers, program_beside, standard_servers};
