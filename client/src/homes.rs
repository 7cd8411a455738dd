//! The sessions of a listener that may change its relay: each has a task of its own that reads it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use stentor_proto::listen::HomeId;
use stentor_proto::wire::{ClientMessage, Close, Hello, ServerMessage};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::session::{Connector, DatagramSender, Incoming, Link, SessionError};

/// Control messages that wait for a session to take them; further ones are dropped.
const OUTBOX: usize = 8;
/// What sessions bring that wait to be looked at; a session that brings more waits itself.
const EVENTS: usize = 256;

/// What a session brings.
#[derive(Debug)]
pub(crate) enum HomeEvent {
    /// It is open.
    Up(DatagramSender),
    /// A control message.
    Message(ServerMessage),
    /// A datagram.
    Datagram(Bytes),
    /// It has ended, or could not be opened.
    Down(SessionError),
}

/// A listener's sessions.
pub(crate) struct Homes {
    connector: Connector,
    open: BTreeMap<HomeId, Home>,
    sender: mpsc::Sender<(HomeId, HomeEvent)>,
    events: mpsc::Receiver<(HomeId, HomeEvent)>,
}

struct Home {
    datagrams: Option<DatagramSender>,
    outbox: mpsc::Sender<ClientMessage>,
    task: JoinHandle<()>,
}

impl Homes {
    pub(crate) fn new(connector: Connector) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        Self { connector, open: BTreeMap::new(), sender, events }
    }

    /// Reads a session that is open already.
    pub(crate) fn adopt(&mut self, home: HomeId, link: Link) {
        let datagrams = Some(link.datagrams());
        let (outbox, said) = mpsc::channel(OUTBOX);
        let task = tokio::spawn(read(home, link, said, self.sender.clone()));
        self.open.insert(home, Home { datagrams, outbox, task });
    }

    /// Opens a session and reads it.
    pub(crate) fn connect(&mut self, home: HomeId, address: String, hello: Hello) {
        let (connector, sender) = (self.connector.clone(), self.sender.clone());
        let (outbox, said) = mpsc::channel(OUTBOX);
        let task = tokio::spawn(async move {
            let event = match connector.dial(&address, hello).await {
                Ok(link) => {
                    let up = HomeEvent::Up(link.datagrams());
                    if sender.send((home, up)).await.is_ok() {
                        read(home, link, said, sender).await;
                    }
                    return;
                }
                Err(error) => HomeEvent::Down(error),
            };
            // Whoever would be told has left.
            let _ = sender.send((home, event)).await;
        });
        self.open.insert(home, Home { datagrams: None, outbox, task });
    }

    /// The next event of a session that has not been left.
    pub(crate) async fn next(&mut self) -> (HomeId, HomeEvent) {
        loop {
            let Some((home, event)) = self.events.recv().await else {
                // `self.sender` keeps the channel open.
                std::future::pending::<()>().await;
                continue;
            };
            let Some(entry) = self.open.get_mut(&home) else {
                // It was left while it was opened.
                if let HomeEvent::Up(datagrams) = event {
                    datagrams.leave();
                }
                continue;
            };
            match &event {
                HomeEvent::Up(datagrams) => entry.datagrams = Some(datagrams.clone()),
                HomeEvent::Down(_) => drop(self.open.remove(&home)),
                HomeEvent::Message(_) | HomeEvent::Datagram(_) => {}
            }
            return (home, event);
        }
    }

    pub(crate) fn send_datagram(&self, home: HomeId, bytes: Bytes) {
        if let Some(datagrams) = self.open.get(&home).and_then(|entry| entry.datagrams.as_ref()) {
            datagrams.send(bytes);
        }
    }

    /// The round trip of a session, as its transport has measured it.
    pub(crate) fn round_trip(&self, home: HomeId) -> Option<Duration> {
        Some(self.open.get(&home)?.datagrams.as_ref()?.round_trip())
    }

    /// Says something on a session's control stream; dropped where the session takes nothing.
    pub(crate) fn say(&self, home: HomeId, message: ClientMessage) {
        if let Some(entry) = self.open.get(&home) {
            let _ = entry.outbox.try_send(message);
        }
    }

    /// Leaves a session, or gives its opening up.
    pub(crate) fn leave(&mut self, home: HomeId) {
        if let Some(entry) = self.open.remove(&home) {
            entry.end();
        }
    }

    pub(crate) fn leave_all(&mut self) {
        std::mem::take(&mut self.open).into_values().for_each(Home::end);
    }
}

impl Home {
    fn end(self) {
        if let Some(datagrams) = &self.datagrams {
            datagrams.leave();
        }
        self.task.abort();
    }
}

impl Drop for Homes {
    fn drop(&mut self) {
        self.leave_all();
    }
}

/// Passes on what a session brings, and says what there is to say.
async fn read(
    home: HomeId,
    mut link: Link,
    mut said: mpsc::Receiver<ClientMessage>,
    sender: mpsc::Sender<(HomeId, HomeEvent)>,
) {
    loop {
        let next = tokio::select! {
            next = link.next() => next,
            // Where it is closed the session has been left, and this task is ended.
            Some(message) = said.recv() => match link.say(&message).await {
                Ok(()) => continue,
                Err(error) => Err(error),
            },
        };
        let (event, last) = match next {
            Ok(Incoming::Datagram(bytes)) => (HomeEvent::Datagram(bytes), false),
            Ok(Incoming::Message(message)) => (HomeEvent::Message(message), false),
            Err(error) => (HomeEvent::Down(error), true),
        };
        if sender.send((home, event)).await.is_err() || last {
            return;
        }
    }
}

/// The close that the other side gave, if it gave one.
pub(crate) fn close_of(error: &SessionError) -> Option<Close> {
    match error {
        SessionError::Closed { close, .. } => Some(close.clone()),
        _ => None,
    }
}
