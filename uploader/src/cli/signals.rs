//! The signals that ask a command to end.

use tokio::signal::unix::{SignalKind, signal};

use crate::base::error::{Area, Error, Result};

/// Returns a future that resolves when the process receives SIGTERM or SIGINT.
///
/// The handlers are in place when this function returns.
pub(super) fn stopped() -> Result<impl Future<Output = ()>> {
    let listen = |kind| {
        signal(kind)
            .map_err(|error| Error::permanent(Area::General, "cannot listen for signals").because(error))
    };
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
