//! Exit codes (as in sysexits.h), and the failure that carries one.

/// The check ran and the answer is no.
pub const NO: u8 = 1;
/// Wrong usage of the command line.
pub const USAGE: u8 = 64;
/// The requested output format cannot hold a row, or the file of a store is damaged: a person must restore it.
pub const DATA: u8 = 65;
/// The service is not running or does not answer.
pub const UNAVAILABLE: u8 = 69;
/// A bug, or something that should not happen.
pub const INTERNAL: u8 = 70;
/// The state directory cannot be created.
pub const CANNOT_CREATE: u8 = 73;
/// The state directory cannot be read or written.
pub const IO: u8 = 74;
/// Try again later: another recorder holds the directory.
pub const TEMPORARY: u8 = 75;
/// Not allowed.
pub const PERMISSION: u8 = 77;
/// Bad configuration, or a store that this program does not know.
pub const CONFIGURATION: u8 = 78;

/// Why the program ends, and with which code.
#[derive(Debug)]
pub struct Failure {
    /// One of the codes above.
    pub code: u8,
    /// What to print.
    pub error: anyhow::Error,
}

impl Failure {
    /// Ends with `code`.
    pub fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { code: INTERNAL, error }
    }
}
