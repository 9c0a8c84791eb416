//! Parses the command line, runs the command and returns its exit code. Everything else is in the library.

use std::process::ExitCode;

use tapekeeper::cli::Cli;

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    if let Err(error) = tapekeeper::signals::ignore_file_size_limit() {
        eprintln!("tapekeeper: cannot handle SIGXFSZ: {error}");
    }
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
            eprintln!("tapekeeper: {:#}", failure.error);
            failure.code
        }
    };
    // A store's worker that hangs must not keep the process alive: all durable data is durable by now.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    ExitCode::from(code)
}
