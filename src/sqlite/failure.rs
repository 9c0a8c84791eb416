//! Classifies the errors of SQLite by what the caller can do about them.

use std::path::Path;

use rusqlite::{ErrorCode, ffi};

/// An error of SQLite, classified by what the caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A full disk, no inode, no file descriptor, a limit of the file's size, a missing permission, a busy file or an
    /// I/O error: a retry may work.
    #[error("{0}")]
    Unavailable(String),
    /// Somebody removed, replaced or emptied the file while it was open: nothing is written to it. A retry works if the
    /// file comes back.
    #[error("{0}")]
    Lost(String),
    /// SQLite cannot store these rows as they are.
    #[error("{0}")]
    Refused(String),
    /// The file's content is not what SQLite or this program wrote: a person must restore it.
    #[error("{0}")]
    Damaged(String),
    /// Another program's file or another schema: a person must act.
    #[error("{0}")]
    Unusable(String),
}

impl Failure {
    /// Adds the file's name to the message.
    pub fn in_file(self, path: &Path) -> Self {
        let named = |text: String| format!("{}: {text}", path.display());
        match self {
            Self::Unavailable(text) => Self::Unavailable(named(text)),
            Self::Lost(text) => Self::Lost(text),
            Self::Refused(text) => Self::Refused(named(text)),
            Self::Damaged(text) => Self::Damaged(format!("{} is damaged: {text}", file_name(path))),
            Self::Unusable(text) => Self::Unusable(named(text)),
        }
    }
}

/// The name without the directory, for messages that a status line must show whole.
pub(super) fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error {
            rusqlite::Error::SqliteFailure(failure, _) => classify(failure, text),
            rusqlite::Error::ToSqlConversionFailure(_) => Self::Refused(text),
            // A stored value that no version of this program has written.
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => Self::Damaged(text),
            _ => Self::Unusable(text),
        }
    }
}

fn classify(failure: ffi::Error, text: String) -> Failure {
    match failure.code {
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Failure::Damaged(text),
        // A checksum of the file system does not match.
        ErrorCode::SystemIoFailure
            if [ffi::SQLITE_IOERR_CORRUPTFS, ffi::SQLITE_IOERR_DATA].contains(&failure.extended_code) =>
        {
            Failure::Damaged(text)
        }
        // SQLite reports a write beyond a limit of the file's size, or beyond a quota, as an I/O error, and a lack of
        // inodes or file descriptors as a file that it cannot open. None of them is a property of the file.
        ErrorCode::DiskFull
        | ErrorCode::SystemIoFailure
        | ErrorCode::CannotOpen
        | ErrorCode::ReadOnly
        | ErrorCode::PermissionDenied
        | ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::OutOfMemory
        | ErrorCode::OperationInterrupted
        | ErrorCode::OperationAborted
        | ErrorCode::SchemaChanged
        | ErrorCode::FileLockingProtocolFailed => Failure::Unavailable(text),
        ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig => Failure::Refused(text),
        _ => Failure::Unusable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: i32, expected: fn(String) -> Failure) {
        let failure = Failure::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        let text = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).to_string();
        assert_eq!(failure, expected(text));
    }

    #[test]
    fn only_a_wrong_content_is_damage_and_a_lack_of_resources_is_an_outage() {
        check(ffi::SQLITE_CORRUPT, Failure::Damaged);
        check(ffi::SQLITE_CORRUPT_INDEX, Failure::Damaged);
        check(ffi::SQLITE_NOTADB, Failure::Damaged);
        check(ffi::SQLITE_IOERR_CORRUPTFS, Failure::Damaged);
        check(ffi::SQLITE_FULL, Failure::Unavailable);
        check(ffi::SQLITE_IOERR_WRITE, Failure::Unavailable);
        check(ffi::SQLITE_CANTOPEN, Failure::Unavailable);
        check(ffi::SQLITE_READONLY, Failure::Unavailable);
        check(ffi::SQLITE_CONSTRAINT, Failure::Refused);
        check(ffi::SQLITE_ERROR, Failure::Unusable);
    }

    #[test]
    fn damage_is_named_with_its_file() {
        let damaged = Failure::Damaged("malformed".to_owned()).in_file(Path::new("/data/history.db"));
        assert_eq!(damaged, Failure::Damaged("history.db is damaged: malformed".to_owned()));
    }
}
