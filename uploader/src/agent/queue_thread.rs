//! The thread that owns the queue and the connection to the Nix daemon.
//!
//! Reading and syncing files blocks, and a daemon may be silent for minutes. On a thread of the async runtime this would
//! halt the uploads, the renewal of the lease, and the signs of life. The event loop sends its requests to this thread
//! and awaits the answers.

use std::sync::Arc;
use std::thread;

use larder_hook::queue::Queue;
use tokio::sync::{mpsc, oneshot, watch};

use super::keeper::{Keeper, QueueState};
use super::pulse::Pulse;
use crate::base::error::{Area, Error, Result, Retry};
use crate::push::Progress;
use crate::store::StoreLocation;

/// A request to the thread; it brings the way of its answer along.
type Request = Box<dyn FnOnce(&mut Keeper) + Send>;

/// The handle of the thread, which ends some time after the handle is dropped.
#[derive(Debug)]
pub(super) struct QueueThread {
    requests: mpsc::UnboundedSender<Request>,
    publish: Arc<watch::Sender<QueueState>>,
    pulse: Arc<Pulse>,
}

impl QueueThread {
    /// Starts the thread, which locks the queue; `None` when the queue has an agent.
    pub(super) async fn start(
        queue: Arc<Queue>,
        store: Arc<StoreLocation>,
        progress: Arc<dyn Progress>,
    ) -> Result<Option<Self>> {
        let (requests, mut received) = mpsc::unbounded_channel::<Request>();
        let (opened, is_open) = oneshot::channel();
        let publish = Arc::new(watch::Sender::new(QueueState::default()));
        let published = publish.clone();
        let pulse = Arc::new(Pulse::new());
        let steps = pulse.clone();
        let serve = move || {
            let mut keeper = match Keeper::open(queue, store, progress) {
                Ok(Some(keeper)) => keeper,
                // The starter may have been dropped, and then nobody needs the answer.
                other => return drop(opened.send(other.map(|_| false))),
            };
            published.send_replace(keeper.state());
            if opened.send(Ok(true)).is_err() {
                return;
            }
            while let Some(request) = received.blocking_recv() {
                steps.request_begins();
                request(&mut keeper);
                steps.request_ends();
            }
        };
        thread::Builder::new().name("queue".into()).spawn(serve).map_err(|error| {
            Error::transient(Area::General, "cannot start the queue's thread").because(error)
        })?;
        let is_open = is_open.await.map_err(|_| died())??;
        Ok(is_open.then_some(Self { requests, publish, pulse }))
    }

    /// Has the thread do something, and awaits the answer. The thread does it even when the caller stops waiting.
    ///
    /// # Errors
    /// The thread has died.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Keeper) -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.send(move |keeper| {
            let value = question(keeper);
            move || drop(answer.send(value))
        })?;
        let answer = answered.await.map_err(|_| died());
        // A turn of the event loop may ask several times, and each time wait for a silent daemon.
        self.pulse.event_loop_steps();
        answer
    }

    /// Has the thread do something of which nobody needs the answer.
    ///
    /// # Errors
    /// The thread has died.
    pub(super) fn order(&self, order: impl FnOnce(&mut Keeper) + Send + 'static) -> Result<()> {
        self.send(|keeper| {
            order(keeper);
            || {}
        })
    }

    /// Sends a request. The new state is published before `answer` is called, so whoever has the answer sees the state.
    fn send<A: FnOnce()>(&self, request: impl FnOnce(&mut Keeper) -> A + Send + 'static) -> Result<()> {
        let publish = self.publish.clone();
        let request: Request = Box::new(move |keeper| {
            let answer = request(keeper);
            keeper.disconnect();
            publish.send_replace(keeper.state());
            answer();
        });
        self.requests.send(request).map_err(|_| died())
    }

    /// The state after the latest request.
    pub(super) fn state(&self) -> QueueState {
        *self.publish.borrow()
    }

    /// What shows whether the event loop and the thread get on.
    pub(super) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// The state, to be watched.
    pub(super) fn watch(&self) -> watch::Receiver<QueueState> {
        self.publish.subscribe()
    }
}

fn died() -> Error {
    Error::new(Area::General, Retry::Unknown, "the queue's thread has died")
        .hint("nothing is lost; start the agent again, and report the panic above")
}
