//! The end of a connection, as a caller waits for it. What happens meanwhile is the flusher's: see `shared`.
//!
//! ```text
//!   accept nothing more -> write the outbox -> FIN -> read and discard until the peer's FIN
//!   '---------------------- until close_timeout at the latest ----------------------------'
//! ```

use std::future::poll_fn;
use std::sync::Arc;

use crate::Error;
use crate::shared::Shared;

pub(crate) async fn close(shared: &Arc<Shared>) -> Result<(), Error> {
    shared.close();
    poll_fn(|cx| shared.poll_ended(cx)).await
}
