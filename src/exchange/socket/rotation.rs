//! Make before break: a connection is replaced before the exchange ends it, by one that carries the same streams
//! and has delivered what the old one had delivered too. What both deliver is stored once.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connect::{ConnectError, WebSocket};
use super::connections::StatusHandle;
use super::overlap::{Overlap, Side};
use super::session::{Session, SessionDeps, SessionEnd};
use super::{LAST_EVENT_WAIT, Socket, SocketCommand, SocketEvent};
use crate::exchange::Dialect;
use crate::market::Stream;
use crate::messages;

/// How soon a rotation that failed is tried again; the old connection goes on meanwhile.
const ROTATION_RETRY_WAIT: Duration = Duration::from_secs(5);
/// Commands that may wait for one session.
const COMMANDS_MAX: usize = 16;

/// A session that runs beside the socket's own loop.
pub(super) struct RunningSession {
    connection: OpenConnection,
    end: Pin<Box<dyn Future<Output = SessionEnd> + Send>>,
    commands: mpsc::Sender<SocketCommand>,
    link: RotationLink,
}

/// A connection's number and where it is shown.
#[derive(Clone)]
struct OpenConnection {
    number: i64,
    status: Arc<StatusHandle>,
}

/// What a session and the rotation tell each other; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct RotationLink {
    /// Cancelled by the session: the exchange announced the end of the connection.
    pub(super) announced: CancellationToken,
    /// Cancelled by the rotation: another connection carries the streams.
    pub(super) replaced: CancellationToken,
    overlap: Arc<Mutex<Option<(Side, SharedOverlap)>>>,
}

/// What both sessions of a rotation note.
#[derive(Clone, Debug)]
struct SharedOverlap {
    overlap: Arc<Mutex<Overlap>>,
    changed: Arc<Notify>,
}

impl RotationLink {
    /// Notes frames that were handed over; costs nothing while there is one connection only.
    pub(super) fn observe(&self, dialect: &dyn Dialect, payloads: &[bytes::Bytes]) {
        let attached = self.overlap.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((side, shared)) = attached else { return };
        let mut overlap = shared.overlap.lock().unwrap_or_else(PoisonError::into_inner);
        for payload in payloads {
            overlap.observe(side, dialect, payload);
        }
        shared.changed.notify_one();
    }

    /// Whether frames are to be noted.
    pub(super) fn is_observing(&self) -> bool {
        self.overlap.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn start_overlap(&self, side: Side, shared: &SharedOverlap) {
        *self.overlap.lock().unwrap_or_else(PoisonError::into_inner) = Some((side, shared.clone()));
    }

    fn end_overlap(&self) {
        *self.overlap.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl SharedOverlap {
    fn read<T>(&self, read: impl FnOnce(&Overlap) -> T) -> T {
        read(&self.overlap.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The connection that is to take over.
#[derive(Default)]
enum Successor {
    #[default]
    None,
    Connecting(BoxFuture<'static, Result<WebSocket, ConnectError>>),
    Overlapping {
        running: RunningSession,
        overlap: SharedOverlap,
        until: Instant,
    },
}

/// What happened next.
enum RotationEvent {
    CurrentEnded(SessionEnd),
    SuccessorEnded(SessionEnd),
    Command(SocketCommand),
    EndAnnounced,
    RotationDue,
    SuccessorConnected(Box<Result<WebSocket, ConnectError>>),
    OverlapChanged,
    TimedOut,
}

impl Socket {
    /// Lives one connection and those that replace it, until one ends that nothing replaces. `None`: the socket is to
    /// end too.
    pub(super) async fn serve(
        &mut self,
        socket: WebSocket,
        streams: &mut Vec<Stream>,
        status: &mut Arc<StatusHandle>,
    ) -> Option<SessionEnd> {
        let mut current = self.start_session(socket, streams, status.clone());
        let mut successor = Successor::None;
        let mut due = Instant::now() + self.rotate_after();
        let mut announced = false;
        loop {
            match self.next_event(&mut current, &mut successor, due, announced).await {
                RotationEvent::CurrentEnded(end) => {
                    let Successor::Overlapping { mut running, overlap, .. } = std::mem::take(&mut successor) else {
                        return self.report_end(&current.connection, streams, &end, None).await.then_some(end);
                    };
                    // The exchange may end it first; then it was replaced in time when nothing came on it alone.
                    let replaced = !end.stopped && overlap.read(Overlap::missing_streams) == 0;
                    let reported = self
                        .report_end(&current.connection, streams, &end, replaced.then_some(running.connection.number))
                        .await;
                    if !reported {
                        // Both see the stop, and a session takes half a second at most to leave.
                        let end = (&mut running.end).await;
                        self.report_end(&running.connection, streams, &end, None).await;
                        return None;
                    }
                    running.link.end_overlap();
                    running.connection.status.take_over_from(&current.connection.status, replaced);
                    current = running;
                    *status = current.connection.status.clone();
                    (due, announced) = (Instant::now() + self.rotate_after(), false);
                }
                RotationEvent::SuccessorEnded(end) => {
                    if let Successor::Overlapping { running, .. } = std::mem::take(&mut successor)
                        && !self.report_end(&running.connection, streams, &end, None).await
                    {
                        let end = (&mut current.end).await;
                        self.report_end(&current.connection, streams, &end, None).await;
                        return None;
                    }
                    current.link.end_overlap();
                    due = Instant::now() + ROTATION_RETRY_WAIT;
                }
                RotationEvent::Command(command) => {
                    if let SocketCommand::SetStreams(new) = &command {
                        streams.clone_from(new);
                    }
                    forward(&current, &successor, &command);
                }
                RotationEvent::EndAnnounced => (due, announced) = (Instant::now(), true),
                RotationEvent::RotationDue => {
                    match self.connections.attempt(self.dialect.exchange(), &self.dialect.limits(), Instant::now()) {
                        Ok(()) => successor = Successor::Connecting(self.connect()),
                        Err(later) => due = later,
                    }
                }
                RotationEvent::SuccessorConnected(connected) => {
                    successor = match *connected {
                        Ok(socket) => self.start_overlap(socket, &current, streams),
                        Err(error) => {
                            tracing::warn!(error = error.text, "the next connection is not open: {}", error.text);
                            due = Instant::now() + ROTATION_RETRY_WAIT;
                            Successor::None
                        }
                    }
                }
                RotationEvent::OverlapChanged => {
                    if let Successor::Overlapping { overlap, .. } = &successor
                        && overlap.read(Overlap::is_complete)
                    {
                        current.link.replaced.cancel();
                    }
                }
                RotationEvent::TimedOut => end_overdue_overlap(&current, &mut successor, self.options.overlap_max),
            }
        }
    }

    /// Waits for whatever comes next; both sessions go on meanwhile.
    async fn next_event(
        &mut self,
        current: &mut RunningSession,
        successor: &mut Successor,
        due: Instant,
        announced: bool,
    ) -> RotationEvent {
        let link = current.link.clone();
        let replaced = link.replaced.is_cancelled();
        // A session that waits for room for an event takes no commands: they wait in the socket's own queue.
        let mut has_capacity = current.commands.capacity() > 0;
        match successor {
            Successor::None => tokio::select! {
                biased;
                end = &mut current.end => RotationEvent::CurrentEnded(end),
                Some(command) = self.commands.recv(), if has_capacity => RotationEvent::Command(command),
                () = link.announced.cancelled(), if !announced => RotationEvent::EndAnnounced,
                () = tokio::time::sleep_until(due) => RotationEvent::RotationDue,
            },
            Successor::Connecting(connecting) => tokio::select! {
                biased;
                end = &mut current.end => RotationEvent::CurrentEnded(end),
                Some(command) = self.commands.recv(), if has_capacity => RotationEvent::Command(command),
                connected = connecting => RotationEvent::SuccessorConnected(Box::new(connected)),
            },
            Successor::Overlapping { running, overlap, until } => {
                has_capacity &= running.commands.capacity() > 0;
                tokio::select! {
                    biased;
                    end = &mut current.end => RotationEvent::CurrentEnded(end),
                    end = &mut running.end => RotationEvent::SuccessorEnded(end),
                    Some(command) = self.commands.recv(), if has_capacity => RotationEvent::Command(command),
                    () = overlap.changed.notified(), if !replaced => RotationEvent::OverlapChanged,
                    () = tokio::time::sleep_until(*until), if !replaced => RotationEvent::TimedOut,
                }
            }
        }
    }

    /// Somewhere between nine tenths of the connection's life and its end: jitter, so that connections which were opened
    /// together are not replaced together.
    fn rotate_after(&self) -> Duration {
        let lifetime = self.options.lifetime.unwrap_or_else(|| self.dialect.limits().lifetime);
        lifetime.mul_f64(0.9 + 0.07 * rand::random::<f64>())
    }

    /// Starts a session on an open connection.
    fn start_session(&self, socket: WebSocket, streams: &[Stream], status: Arc<StatusHandle>) -> RunningSession {
        let connection = self.next_connection.fetch_add(1, Ordering::Relaxed);
        status.update(|row| {
            row.reconnects += u64::from(row.connection.is_some());
            row.connection = Some(connection);
            row.connected_since = Some(self.clock.now().micros());
            "subscribing".clone_into(&mut row.state);
        });
        let (commands, command_receiver) = mpsc::channel(COMMANDS_MAX);
        let link = RotationLink::default();
        let deps = SessionDeps {
            dialect: self.dialect.clone(),
            options: self.options.clone(),
            clock: self.clock.clone(),
            events: self.events.clone(),
            commands: command_receiver,
            status: status.clone(),
            link: link.clone(),
            stop: self.stop.clone(),
        };
        let session = Session::new(deps, socket, connection, streams.to_vec());
        RunningSession {
            connection: OpenConnection { number: connection, status },
            end: Box::pin(session.run()),
            commands,
            link,
        }
    }

    /// Starts the session that is to take over; from here on both note what they deliver.
    fn start_overlap(&self, socket: WebSocket, current: &RunningSession, streams: &[Stream]) -> Successor {
        let overlap =
            SharedOverlap { overlap: Arc::new(Mutex::new(Overlap::new(streams))), changed: Arc::new(Notify::new()) };
        current.link.start_overlap(Side::Old, &overlap);
        let running = self.start_session(socket, streams, self.connections.register(self.dialect.exchange()));
        running.link.start_overlap(Side::New, &overlap);
        tracing::info!(
            connection = running.connection.number,
            "connection {} is to take over from {}",
            running.connection.number,
            current.connection.number
        );
        Successor::Overlapping { running, overlap, until: Instant::now() + self.options.overlap_max }
    }

    /// Tells that a connection ended, and by which it was replaced. `false`: the socket is to end too.
    async fn report_end(&self, ended: &OpenConnection, streams: &[Stream], end: &SessionEnd, by: Option<i64>) -> bool {
        let (connection, reason) = (ended.number, end.reason.clone());
        ended.status.update(|row| {
            row.connected_since = None;
            row.last_error.clone_from(&reason);
            row.state = if end.stopped { "stopped".to_owned() } else { format!("waiting: {reason}") };
        });
        let streams = streams.to_vec();
        let last = match by {
            Some(by) => {
                tracing::info!(connection, "connection {connection} was replaced by {by}");
                SocketEvent::Replaced { connection, by, streams }
            }
            None => SocketEvent::Disconnected { connection, streams, reason: reason.clone() },
        };
        if end.stopped {
            tracing::debug!(connection, reason, "connection {connection} ended");
            // Whoever receives may have ended too; what is lost here is one marker.
            if tokio::time::timeout(LAST_EVENT_WAIT, self.events.send(last)).await.is_err() {
                tracing::warn!(connection, "nobody took the last event of connection {connection}");
            }
            return false;
        }
        if by.is_none() {
            tracing::warn!(
                MESSAGE_ID = messages::CONNECTION_LOST,
                connection,
                reason,
                "connection {connection} was lost: {reason}"
            );
        }
        tokio::select! {
            biased;
            sent = self.events.send(last) => sent.is_ok(),
            () = self.stop.cancelled() => false,
        }
    }
}

/// The wait for quiet streams is over: nothing came of them, and the new connection is subscribed to them. A stream that
/// only the old one brings is another matter: then the new one goes.
fn end_overdue_overlap(current: &RunningSession, successor: &mut Successor, wait: Duration) {
    let Successor::Overlapping { running, overlap, until } = successor else { return };
    *until = Instant::now() + wait;
    match overlap.read(Overlap::missing_streams) {
        0 => current.link.replaced.cancel(),
        missing => {
            tracing::warn!("the next connection does not bring {missing} streams that this one brings");
            running.link.replaced.cancel();
        }
    }
}

/// Hands a command on; there is room for it. A session that has ended does not need it any more.
fn forward(current: &RunningSession, successor: &Successor, command: &SocketCommand) {
    let mut sessions = vec![current];
    if let Successor::Overlapping { running, .. } = successor
        && !matches!(command, SocketCommand::Reconnect(_))
    {
        sessions.push(running);
    }
    for session in sessions {
        if session.commands.try_send(command.clone()).is_err() {
            tracing::debug!(connection = session.connection.number, "a session ended before it took a command");
        }
    }
}
