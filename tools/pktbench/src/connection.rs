//! One connection of the load, from connecting to closing.
//!
//! ```text
//!   connect -> wait for the others -> load -> close
//!      '--------------- until the conductor says stop
//! ```

use std::sync::Arc;

use pktconn::PacketConn;
use tokio::sync::watch;

use crate::connect::connect;
use crate::load::{End, Load};
use crate::plan::Schedule;
use crate::tally::chain;
use crate::worker::{Control, Event, Shared, Stop};

/// The life of connection `index`. What it has counted is in the worker's tally at the end.
pub(crate) async fn run(index: usize, shared: Arc<Shared>) {
    let mut control = shared.control.clone();
    let conn = tokio::select! {
        biased;
        _ = stopped(&mut control) => return,
        conn = connect(&shared) => match conn {
            Ok(conn) => conn,
            Err(problem) => return shared.tell(Event::NotConnected(problem)),
        },
    };
    shared.tell(Event::Connected);
    match started(&mut control).await {
        None => close(index, conn).await,
        Some(schedule) => {
            let mut load = Load::new(index, conn, &shared, schedule);
            let end = tokio::select! {
                // The stop first: a load that always has something to read would use up the budget of the task.
                biased;
                stop = stopped(&mut control) => End::Stopped(stop),
                end = load.run() => end,
            };
            close(index, load.finish(end)).await;
        }
    }
}

/// Waits for the start, or for the news that there is none.
async fn started(control: &mut watch::Receiver<Control>) -> Option<Schedule> {
    match control.wait_for(|control| !matches!(control, Control::Connect)).await.as_deref() {
        Ok(Control::Go(schedule)) => Some(*schedule),
        _ => None,
    }
}

async fn stopped(control: &mut watch::Receiver<Control>) -> Stop {
    match control.wait_for(|control| matches!(control, Control::Stop(_))).await.as_deref() {
        Ok(Control::Stop(stop)) => *stop,
        // The conductor is gone.
        _ => Stop::Interrupted,
    }
}

async fn close(index: usize, mut conn: PacketConn) {
    // What counts has come back by now, and the failure of one that failed was told.
    if let Err(error) = conn.close().await {
        tracing::debug!(connection = index, error = chain(&error), "the close was not clean");
    }
}
