//! Parses the command line, runs the command and returns its exit code. Everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

use tapekeeper::cli::Cli;

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::from(tapekeeper::exit::INTERNAL);
        }
    };
    let code = match runtime.block_on(cli.run()) {
        Ok(code) => code,
        Err(failure) => {
            // Not eprintln!, which panics when stderr is a file on a full disk.
            writeln!(std::io::stderr(), "tapekeeper: {:#}", failure.error).ok();
            failure.code
        }
    };
    // A store's worker that hangs must not keep the process alive: all durable data is durable by now.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    ExitCode::from(code)
}
