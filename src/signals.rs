//! SIGTERM, SIGINT and SIGHUP as requests, with the sender. Must not know how a stop or a reload works.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use tokio::sync::mpsc;

/// A request that came as a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT: stop in order. The text names the signal and its sender.
    Stop(String),
    /// SIGHUP: read the configuration again. The text names the sender.
    Reload(String),
}

/// Starts to listen for signals. A second SIGTERM or SIGINT ends the process at once.
pub fn listen() -> anyhow::Result<mpsc::Receiver<Request>> {
    let mut signals = SignalsInfo::<WithOrigin>::new([SIGTERM, SIGINT, SIGHUP])?;
    let (requests, received) = mpsc::channel(16);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut stopping = false;
        for origin in signals.forever() {
            let sender = match &origin.process {
                Some(process) => format!("process {} of user {}", process.pid, process.uid),
                None => "the kernel".to_owned(),
            };
            let request = match origin.signal {
                SIGHUP => Request::Reload(format!("SIGHUP from {sender}")),
                signal => {
                    if stopping {
                        // A second signal does not wait: the next start consumes what is not acknowledged.
                        tracing::warn!("a second signal from {sender}: ending at once");
                        if signal_hook::low_level::emulate_default_handler(signal).is_err() {
                            signal_hook::low_level::abort();
                        }
                    }
                    stopping = true;
                    let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
                    Request::Stop(format!("{name} from {sender}"))
                }
            };
            // A full channel already holds a reload, which has the same effect.
            if let Err(mpsc::error::TrySendError::Closed(_)) = requests.try_send(request) {
                return;
            }
        }
    })?;
    Ok(received)
}

/// Makes a write beyond a limit of the file's size (`ulimit -f`, LimitFSIZE=) an error like that of a full disk. By
/// default it ends the process with SIGXFSZ. A program that this one starts has the default again.
pub fn ignore_file_size_limit() -> anyhow::Result<()> {
    // Nobody reads the flag: a signal that is handled does not end the process.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    Ok(())
}

/// Sends SIGTERM to a process.
pub fn terminate(process: i32) -> anyhow::Result<()> {
    let process =
        rustix::process::Pid::from_raw(process).ok_or_else(|| anyhow::anyhow!("{process} is not a process id"))?;
    rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
    Ok(())
}
