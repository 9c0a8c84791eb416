//! The processes that a program leaves behind, and their end.
//!
//! Most are in the program's process group, which gets signals as long as the program itself is not reaped: until then
//! no other process can get the group's number. A child that began a session of its own left the group. It becomes a
//! child of this process when its parent ends, because this process is their subreaper; it is known by the run's id in
//! its environment. One that removed that too is killed when no other program runs that could be its origin.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpgrp, getpid, kill_process_group, pidfd_open, pidfd_send_signal,
    set_child_subreaper, waitid,
};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

/// Rounds of looking for processes and killing them: a program that starts new ones all the time is not chased for ever.
const ROUNDS_MAX: usize = 50;
/// Wait between two rounds.
const ROUND_WAIT: Duration = Duration::from_millis(10);
/// How often to look whether a program has ended, beside the signal that says so.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// The variable that holds the run's id.
pub(super) const RUN_ID: &str = "TAPEKEEPER_RUN_ID";

/// The programs that were started and not reaped yet, which are no leftovers, and whether each still runs. Whoever looks
/// for leftovers holds it meanwhile, so that a program that starts just then is not taken for one.
static PROGRAMS: Mutex<BTreeMap<i32, bool>> = Mutex::new(BTreeMap::new());

/// A running program and everything that it started. Dropping it kills all of them.
pub(super) struct ProcessTree {
    program: Pid,
    run_id: String,
    /// The program was not reaped: its process group is still its own.
    owns_group: bool,
}

impl ProcessTree {
    /// Starts a program that leads a process group, and follows it.
    pub(super) fn spawn(command: &mut Command, run_id: &str) -> std::io::Result<(Child, Self)> {
        let mut programs = lock();
        let child = command.spawn()?;
        let program = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let program = program.ok_or_else(|| std::io::Error::other("the program has no process number"))?;
        programs.insert(program.as_raw_nonzero().get(), true);
        drop(programs);
        Ok((child, Self { program, run_id: run_id.to_owned(), owns_group: true }))
    }

    /// Sends a signal to the program's group; does nothing once the program was reaped.
    pub(super) fn signal(&self, signal: Signal) {
        if self.owns_group {
            // An error means that nobody in it may be signalled any more.
            kill_process_group(self.program, signal).ok();
        }
    }

    /// Waits until the program has ended, and leaves it unreaped.
    pub(super) async fn ended(&self) {
        // Before the first look, so that no end is missed. Without the signal the interval alone serves.
        let mut children = signal(SignalKind::child()).ok();
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        while matches!(waitid(WaitId::Pid(self.program), options), Ok(None)) {
            let child_ended = async {
                match &mut children {
                    Some(children) => drop(children.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = child_ended => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Kills what is left of an ended program, in and outside its group. Returns how many processes were outside. The
    /// caller reaps the program afterwards, and must not signal the group again.
    pub(super) async fn kill_rest(&mut self) -> usize {
        self.signal(Signal::KILL);
        self.owns_group = false;
        lock().insert(self.program.as_raw_nonzero().get(), false);
        let mut killed = BTreeSet::new();
        for _ in 0..ROUNDS_MAX {
            let run_id = self.run_id.clone();
            let found = tokio::task::spawn_blocking(move || kill_round(&run_id)).await.unwrap_or_default();
            if found.is_empty() {
                break;
            }
            killed.extend(found);
            tokio::time::sleep(ROUND_WAIT).await;
        }
        killed.len()
    }
}

impl Drop for ProcessTree {
    fn drop(&mut self) {
        // The run was aborted: nobody waits for the program any more.
        if self.owns_group {
            self.signal(Signal::KILL);
            lock().insert(self.program.as_raw_nonzero().get(), false);
            // The group's own processes end and may leave others behind: look twice.
            for _ in 0..2 {
                kill_round(&self.run_id);
            }
        }
        lock().remove(&self.program.as_raw_nonzero().get());
    }
}

/// Makes this process the parent of what its programs leave behind. Call it before the first program starts.
pub(super) fn become_subreaper() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = set_child_subreaper(Some(getpid())) {
            warn!("cannot become the parent of what a job's program leaves behind; it may survive the run: {error}");
        }
    });
}

/// Reaps the leftovers that have ended.
pub(super) fn reap_leftovers() {
    let programs = lock();
    let table = ProcessTable::read();
    for pid in table.leftovers(&programs).into_iter().filter(|pid| table.is_zombie(*pid)) {
        reap(pid);
    }
}

fn lock() -> std::sync::MutexGuard<'static, BTreeMap<i32, bool>> {
    PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills the leftovers of a run and reaps those that have ended; returns the former.
fn kill_round(run_id: &str) -> Vec<i32> {
    let programs = lock();
    let other_runs = programs.values().any(|runs| *runs);
    let table = ProcessTable::read();
    let mut killed = Vec::new();
    for root in table.leftovers(&programs) {
        if table.is_zombie(root) {
            reap(root);
            continue;
        }
        let tree = table.tree(root);
        let is_mine = !other_runs || tree.iter().any(|pid| has_run_id(*pid, run_id));
        for pid in tree.into_iter().filter(|pid| is_mine && !table.is_zombie(*pid)) {
            if kill(pid, table.0[&pid].started) {
                killed.push(pid);
            }
        }
    }
    killed
}

/// A process as `/proc` shows it.
struct Process {
    parent: i32,
    group: i32,
    is_zombie: bool,
    /// When it started, in clock ticks since the boot: with the number it identifies a process.
    started: u64,
}

struct ProcessTable(BTreeMap<i32, Process>);

impl ProcessTable {
    fn read() -> Self {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Self(pids.filter_map(|pid| Some((pid, Process::read(pid)?))).collect())
    }

    /// Children of this process that are no programs of a run: their parents, which a program started, have ended. A
    /// child in this process's own group was started by other code.
    fn leftovers(&self, programs: &BTreeMap<i32, bool>) -> Vec<i32> {
        let (own, own_group) = (getpid().as_raw_nonzero().get(), getpgrp().as_raw_nonzero().get());
        let is_leftover = |(pid, process): (&i32, &Process)| {
            let leads = programs.contains_key(pid);
            (process.parent == own && process.group != own_group && !leads).then_some(*pid)
        };
        self.0.iter().filter_map(is_leftover).collect()
    }

    fn is_zombie(&self, pid: i32) -> bool {
        self.0.get(&pid).is_some_and(|process| process.is_zombie)
    }

    /// A process and its descendants.
    fn tree(&self, root: i32) -> Vec<i32> {
        let mut tree = vec![root];
        let mut at = 0;
        while at < tree.len() {
            let parent = tree[at];
            tree.extend(self.0.iter().filter(|(_, process)| process.parent == parent).map(|(pid, _)| *pid));
            at += 1;
        }
        tree
    }
}

impl Process {
    /// `None` when it has ended.
    fn read(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may contain any character.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            is_zombie: matches!(*fields.first()?, "Z" | "X"),
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

fn has_run_id(pid: i32, run_id: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let wanted = format!("{RUN_ID}={run_id}");
    environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}

/// Kills a process that started at this time; returns whether it was there.
fn kill(pid: i32, started: u64) -> bool {
    let Some(pid) = Pid::from_raw(pid) else { return false };
    // The descriptor holds the process: after it is open, the number cannot change its meaning any more.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let is_same = Process::read(pid.as_raw_nonzero().get()).is_some_and(|found| found.started == started);
    is_same && pidfd_send_signal(&process, Signal::KILL).is_ok()
}

/// Reaps an adopted child. Nobody else waits for it.
fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // An error means that it is gone.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok();
    }
}
