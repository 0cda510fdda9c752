//! Why a frame is refused.

use crate::direction::OutOfBounds;

/// Why a frame was refused. The connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameRefused {
    /// The peer must not send this frame now. The session can be resumed.
    #[error("the peer must not send {name} now")]
    Unexpected {
        /// The name of the frame.
        name: &'static str,
    },
    /// A field does not fit the state of the session. The session can be resumed.
    #[error("field {field} of {name} does not fit the session")]
    Unfit {
        /// The name of the frame.
        name: &'static str,
        /// The name of the field.
        field: &'static str,
    },
    /// A counter is out of its bounds. The session has ended.
    #[error(transparent)]
    Diverged(#[from] OutOfBounds),
}
