//! The error of a session that has ended.

use pktconn_session::EndReason;

use crate::error::Reason;

pub(crate) fn end_reason(reason: EndReason) -> Reason {
    match reason {
        EndReason::Settled { .. } => Reason::LocalClose,
        reason => Reason::Session(reason.to_string().into()),
    }
}
