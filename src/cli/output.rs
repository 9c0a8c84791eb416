//! What commands say on stdout. A reader who has seen enough (`| head`) has closed it, and that is no fault:
//! `println!` would panic.

use std::fmt;
use std::io::{self, ErrorKind, Write};

use crate::exit::{Failure, IO};

/// A line on stdout.
macro_rules! print_line {
    ($($text:tt)*) => { $crate::cli::output::text(format_args!("{}\n", format_args!($($text)*))) };
}
pub(super) use print_line;

/// Text on stdout, as it is.
pub(super) fn text(text: fmt::Arguments<'_>) {
    if let Err(error) = io::stdout().lock().write_fmt(text)
        && error.kind() != ErrorKind::BrokenPipe
    {
        eprintln!("tapekeeper: cannot print: {error}");
    }
}

/// The end of a command that prints until it is done or nobody reads any more: the latter is an end as good as the other.
pub(super) fn allow_closed_stdout(ended: Result<u8, Failure>) -> Result<u8, Failure> {
    // What cannot be written has this code; a server whose connection broke has another.
    let is_closed = |failure: &Failure| {
        failure.code == IO
            && failure
                .error
                .root_cause()
                .downcast_ref()
                .is_some_and(|error: &io::Error| error.kind() == ErrorKind::BrokenPipe)
    };
    match ended {
        Err(failure) if is_closed(&failure) => Ok(0),
        ended => ended,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;
    use crate::exit::UNAVAILABLE;

    #[test]
    fn only_a_reader_who_went_away_is_no_failure() {
        let broken = |code, kind: ErrorKind| {
            let error: Result<u8, _> = Err(io::Error::from(kind)).context("write the rows");
            error.map_err(|error| Failure::new(code, error))
        };
        assert_eq!(allow_closed_stdout(broken(IO, ErrorKind::BrokenPipe)).ok(), Some(0));
        assert!(allow_closed_stdout(broken(IO, ErrorKind::StorageFull)).is_err(), "a full disk");
        assert!(allow_closed_stdout(broken(UNAVAILABLE, ErrorKind::BrokenPipe)).is_err(), "a server");
        assert_eq!(allow_closed_stdout(Ok(1)).ok(), Some(1));
    }
}
