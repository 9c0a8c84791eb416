//! Make before break: a connection is replaced before the exchange ends it, by one that carries the same streams and
//! has delivered what the old one had delivered. History stores rows that both deliver once.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connect::{ConnectError, Retry, WebSocket};
use super::connections::StatusHandle;
use super::overlap::{Overlap, Side};
use super::refusals::Refusals;
use super::session::{Session, SessionCommand, SessionDeps, SessionEnd};
use super::{LAST_EVENT_WAIT, Socket, SocketCommand, SocketEvent};
use crate::exchange::Dialect;
use crate::market::Stream;
use crate::messages;
use crate::retry::Backoff;

/// The first wait after a failed rotation; the old connection stays open meanwhile. It doubles with every failure, because
/// each attempt counts against the exchange's limit on connections.
const ROTATION_RETRY_MIN: Duration = Duration::from_secs(5);
/// The longest wait after a failed rotation: a connection is replaced 40 minutes or more before the exchange ends it.
const ROTATION_RETRY_MAX: Duration = Duration::from_secs(300);
/// Most commands that wait for one session.
const COMMANDS_MAX: usize = 16;

/// A session that runs beside the socket's own loop.
pub(super) struct RunningSession {
    connection: OpenConnection,
    end: Pin<Box<dyn Future<Output = SessionEnd> + Send>>,
    commands: mpsc::Sender<SessionCommand>,
    link: RotationLink,
}

/// The number of a connection and its status row.
#[derive(Clone)]
struct OpenConnection {
    number: i64,
    status: Arc<StatusHandle>,
}

/// The signals between a session and the rotation; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct RotationLink {
    /// Cancelled by the session when the exchange announces the end of the connection.
    pub(super) announced: CancellationToken,
    /// Cancelled by the rotation when another connection carries the streams.
    pub(super) replaced: CancellationToken,
    overlap: Arc<Mutex<Option<(Side, SharedOverlap)>>>,
}

/// The overlap of a rotation, which both sessions update.
#[derive(Clone, Debug)]
struct SharedOverlap {
    overlap: Arc<Mutex<Overlap>>,
    changed: Arc<Notify>,
}

impl RotationLink {
    /// Adds delivered frames to the overlap; does nothing while there is only one connection.
    pub(super) fn observe(&self, dialect: &dyn Dialect, payloads: &[bytes::Bytes]) {
        let attached = self.overlap.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((side, shared)) = attached else { return };
        let mut overlap = shared.overlap.lock().unwrap_or_else(PoisonError::into_inner);
        for payload in payloads {
            overlap.observe(side, dialect, payload);
        }
        shared.changed.notify_one();
    }

    /// Whether [`RotationLink::observe`] needs the frames.
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

/// The connection that will take over.
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

/// What [`Socket::next_event`] waited for.
enum RotationEvent {
    CurrentEnded(SessionEnd),
    SuccessorEnded(SessionEnd),
    Command(SocketCommand),
    StreamsChanged,
    EndAnnounced,
    RotationDue,
    SuccessorConnected(Box<Result<WebSocket, ConnectError>>),
    OverlapChanged,
    TimedOut,
}

impl Socket {
    /// Runs a connection and its successors until one ends without a successor. `None`: the socket must end too.
    pub(super) async fn serve(
        &mut self,
        socket: WebSocket,
        streams: &mut Vec<Stream>,
        refusals: &Refusals,
        status: &mut Arc<StatusHandle>,
    ) -> Option<SessionEnd> {
        let mut current = self.start_session(socket, streams, refusals, status.clone());
        let mut successor = Successor::None;
        let mut due = Instant::now() + self.rotate_after();
        let mut announced = false;
        let mut backoff = Backoff::new(ROTATION_RETRY_MIN, ROTATION_RETRY_MAX);
        loop {
            match self.next_event(&mut current, &mut successor, due, announced).await {
                RotationEvent::CurrentEnded(end) => {
                    let Successor::Overlapping { mut running, overlap, .. } = std::mem::take(&mut successor) else {
                        return self.report_end(&current.connection, streams, &end, None).await.then_some(end);
                    };
                    // The exchange may end it first. It was replaced in time if it alone delivered nothing.
                    let replaced = !end.stopped && overlap.read(Overlap::missing_streams) == 0;
                    let by = replaced.then_some(running.connection.number);
                    if !self.report_end(&current.connection, streams, &end, by).await {
                        // Both sessions see the stop, and each ends within half a second.
                        let end = (&mut running.end).await;
                        self.report_end(&running.connection, streams, &end, None).await;
                        return None;
                    }
                    running.link.end_overlap();
                    running.connection.status.take_over_from(&current.connection.status, replaced);
                    current = running;
                    *status = current.connection.status.clone();
                    (due, announced) = (Instant::now() + self.rotate_after(), false);
                    backoff.reset();
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
                    due = Instant::now() + backoff.next_delay();
                }
                RotationEvent::Command(command) => due = due_after(command, &current, &successor, due),
                RotationEvent::StreamsChanged => {
                    streams.clone_from(&self.streams.borrow_and_update());
                    forward(&current, &successor, &SessionCommand::SetStreams(streams.clone()));
                }
                RotationEvent::EndAnnounced => (due, announced) = (Instant::now(), true),
                RotationEvent::RotationDue => {
                    match self.connections.attempt(self.dialect.exchange(), &self.dialect.spec().limits, Instant::now())
                    {
                        Ok(()) => successor = Successor::Connecting(self.connect()),
                        Err(later) => due = later,
                    }
                }
                RotationEvent::SuccessorConnected(connected) => {
                    successor = match *connected {
                        Ok(socket) => self.start_overlap(socket, &current, streams, refusals),
                        Err(error) => {
                            due = Instant::now() + self.after_refused_successor(&error, backoff.next_delay());
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

    /// Reports that the connection that should take over was not opened. Returns how long to wait before the next attempt, at
    /// least `delay`.
    fn after_refused_successor(&self, error: &ConnectError, delay: Duration) -> Duration {
        if let Retry::After(required) = error.retry {
            self.connections.defer(self.dialect.exchange(), required, &error.text);
        }
        let wait = rotation_wait(error.retry, self.options.refused_wait, delay);
        let wait_ms = wait.as_millis();
        tracing::warn!(wait_ms, error = error.text, "the next connection is not open: {}", error.text);
        wait
    }

    /// Waits for the next event; both sessions run meanwhile.
    async fn next_event(
        &mut self,
        current: &mut RunningSession,
        successor: &mut Successor,
        due: Instant,
        announced: bool,
    ) -> RotationEvent {
        let link = current.link.clone();
        let replaced = link.replaced.is_cancelled();
        // A session that waits for the event channel reads no commands: they stay in the socket's own queue.
        let mut has_capacity = current.commands.capacity() > 0;
        match successor {
            Successor::None => tokio::select! {
                biased;
                end = &mut current.end => RotationEvent::CurrentEnded(end),
                Some(command) = self.commands.recv(), if has_capacity => RotationEvent::Command(command),
                Ok(()) = self.streams.changed(), if has_capacity => RotationEvent::StreamsChanged,
                () = link.announced.cancelled(), if !announced => RotationEvent::EndAnnounced,
                () = tokio::time::sleep_until(due) => RotationEvent::RotationDue,
            },
            Successor::Connecting(connecting) => tokio::select! {
                biased;
                end = &mut current.end => RotationEvent::CurrentEnded(end),
                Some(command) = self.commands.recv(), if has_capacity => RotationEvent::Command(command),
                Ok(()) = self.streams.changed(), if has_capacity => RotationEvent::StreamsChanged,
                connected = connecting => RotationEvent::SuccessorConnected(Box::new(connected)),
            },
            Successor::Overlapping { running, overlap, until } => {
                has_capacity &= running.commands.capacity() > 0;
                tokio::select! {
                    biased;
                    end = &mut current.end => RotationEvent::CurrentEnded(end),
                    end = &mut running.end => RotationEvent::SuccessorEnded(end),
                    Some(command) = self.commands.recv(), if has_capacity => RotationEvent::Command(command),
                Ok(()) = self.streams.changed(), if has_capacity => RotationEvent::StreamsChanged,
                    () = overlap.changed.notified(), if !replaced => RotationEvent::OverlapChanged,
                    () = tokio::time::sleep_until(*until), if !replaced => RotationEvent::TimedOut,
                }
            }
        }
    }

    fn rotate_after(&self) -> Duration {
        let spec = self.dialect.spec();
        let Some(lifetime) = self.options.lifetime.or(spec.limits.lifetime) else {
            return super::WAIT_MAX;
        };
        rotation_age(lifetime, self.options.copy, spec.copies(), rand::random())
    }

    /// Starts a session on an open connection.
    fn start_session(
        &self,
        socket: WebSocket,
        streams: &[Stream],
        refusals: &Refusals,
        status: Arc<StatusHandle>,
    ) -> RunningSession {
        let connection = self.next_connection.fetch_add(1, Ordering::Relaxed);
        status.update(|row| {
            row.reconnects += u64::from(row.connection.is_some());
            row.connection = Some(connection);
            row.connected_since = Some(self.clock.now().micros());
            row.opened = Some(Instant::now());
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
            refusals: refusals.clone(),
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

    /// Starts the session that will take over; from here on both sessions update the overlap.
    fn start_overlap(
        &self,
        socket: WebSocket,
        current: &RunningSession,
        streams: &[Stream],
        refusals: &Refusals,
    ) -> Successor {
        let overlap =
            SharedOverlap { overlap: Arc::new(Mutex::new(Overlap::new(streams))), changed: Arc::new(Notify::new()) };
        current.link.start_overlap(Side::Old, &overlap);
        let running = self.start_session(socket, streams, refusals, self.connections.register(self.dialect.exchange()));
        running.link.start_overlap(Side::New, &overlap);
        tracing::info!(
            connection = running.connection.number,
            "connection {} will take over from {}",
            running.connection.number,
            current.connection.number
        );
        Successor::Overlapping { running, overlap, until: Instant::now() + self.options.overlap_max }
    }

    /// Reports that a connection ended and which one replaced it, if any. `false`: the socket must end too.
    async fn report_end(&self, ended: &OpenConnection, streams: &[Stream], end: &SessionEnd, by: Option<i64>) -> bool {
        let (connection, reason) = (ended.number, end.reason.clone());
        ended.status.update(|row| {
            (row.connected_since, row.opened) = (None, None);
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
            // The receiver may have ended too; then only this marker is lost.
            if tokio::time::timeout(LAST_EVENT_WAIT, self.events.send(last)).await.is_err() {
                tracing::warn!(connection, "the receiver did not take the last event of connection {connection}");
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

/// A random age between 90 % and 97 % of the lifetime, so that connections which were opened together are not replaced
/// together; sockets with the same streams have separate parts of that time. `chance` is in 0..1.
fn rotation_age(lifetime: Duration, copy: usize, copies: usize, chance: f64) -> Duration {
    let part = (copy as f64 + 0.9 * chance) / copies.max(1) as f64;
    lifetime.mul_f64(0.9 + 0.07 * part.min(1.0))
}

/// How long to wait after the exchange refused the connection that should take over: never shorter than `delay`.
fn rotation_wait(retry: Retry, refused_wait: Duration, delay: Duration) -> Duration {
    match retry {
        Retry::Backoff => delay,
        Retry::Slowly => delay.max(refused_wait),
        Retry::After(required) => delay.max(required),
    }
}

/// Ends the wait for silent streams. If no stream came on the old connection alone, the new one takes over: it is
/// subscribed to the silent streams too. Otherwise the new one is closed.
fn end_overdue_overlap(current: &RunningSession, successor: &mut Successor, wait: Duration) {
    let Successor::Overlapping { running, overlap, until } = successor else { return };
    *until = Instant::now() + wait;
    match overlap.read(Overlap::missing_streams) {
        0 => current.link.replaced.cancel(),
        missing => {
            tracing::warn!(missing, "the next connection does not deliver {missing} streams that this one delivers");
            running.link.replaced.cancel();
        }
    }
}

/// Handles a command; returns when the next rotation is due.
fn due_after(command: SocketCommand, current: &RunningSession, successor: &Successor, due: Instant) -> Instant {
    let command = match command {
        SocketCommand::Rotate(number) if number == current.connection.number => return Instant::now(),
        SocketCommand::Rotate(_) => return due,
        SocketCommand::Resubscribe(streams) => SessionCommand::Resubscribe(streams),
        SocketCommand::Reconnect(reason) => SessionCommand::Reconnect(reason),
    };
    forward(current, successor, &command);
    due
}

/// Forwards a command; the channels have capacity for it. A session that has ended no longer needs it.
fn forward(current: &RunningSession, successor: &Successor, command: &SessionCommand) {
    let mut sessions = vec![current];
    if let Successor::Overlapping { running, .. } = successor
        && !matches!(command, SessionCommand::Reconnect(_))
    {
        sessions.push(running);
    }
    for session in sessions {
        if session.commands.try_send(command.clone()).is_err() {
            tracing::debug!(connection = session.connection.number, "a session ended before it read a command");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_with_the_same_streams_are_replaced_at_different_ages() {
        let day = Duration::from_secs(86_400);
        let ages = |copy| [0.0, 0.5, 1.0].map(|chance| rotation_age(day, copy, 2, chance).as_secs());
        let (first, second) = (ages(0), ages(1));
        assert!(first[0] >= 77_760 && second[2] <= 83_808, "{first:?} {second:?}");
        assert!(first[2] + 300 < second[0], "five minutes or more are between them: {first:?} {second:?}");
    }

    #[test]
    fn a_refused_successor_is_retried_after_growing_pauses_and_never_before_the_exchange_allows_it() {
        let mut backoff = Backoff::new(ROTATION_RETRY_MIN, ROTATION_RETRY_MAX);
        let hour = Duration::from_secs(3_600);
        let waits: Vec<Duration> = (0..12).map(|_| rotation_wait(Retry::Backoff, hour, backoff.next_delay())).collect();
        assert!(waits[0] <= ROTATION_RETRY_MIN && waits[11] >= ROTATION_RETRY_MAX / 2, "{waits:?}");
        assert!(waits.iter().sum::<Duration>() > Duration::from_secs(900), "an hour brings few attempts: {waits:?}");
        assert_eq!(rotation_wait(Retry::After(hour), hour, ROTATION_RETRY_MIN), hour);
        assert_eq!(rotation_wait(Retry::Slowly, hour, ROTATION_RETRY_MIN), hour);
    }
}
