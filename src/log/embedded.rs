//! The log in SQLite.
