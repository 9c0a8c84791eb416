//! How a request ended, and how the client stands.

use crate::exchange::DecodeError;
use crate::market::Timestamp;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// The budget is used up or the exchange asked for a pause: send again at `until`.
    #[error("the exchange's request limit is reached until {until}")]
    Limited {
        /// When to ask again.
        until: Timestamp,
    },
    /// The exchange has banned this address: nothing is sent before `until`.
    #[error("the exchange has banned this address until {until}")]
    Banned {
        /// When the ban ends.
        until: Timestamp,
    },
    /// The exchange refuses this address (403, 451): nothing is sent for five minutes.
    #[error("{text}")]
    Refused {
        /// In plain words.
        text: String,
    },
    /// The exchange does not know the symbol.
    #[error("the exchange does not know the symbol: {text}")]
    UnknownSymbol {
        /// The exchange's own words.
        text: String,
    },
    /// An answer that cannot be used: another 4xx, undecodable, too large. Asking again will not help.
    #[error("{text}")]
    BadAnswer {
        /// What is wrong with it.
        text: String,
    },
    /// No answer, or a 5xx: asking again later may help.
    #[error("{text}")]
    Unavailable {
        /// What happened.
        text: String,
    },
    /// `stop` was cancelled.
    #[error("stopped")]
    Stopped,
}

impl From<DecodeError> for RestError {
    fn from(error: DecodeError) -> Self {
        Self::BadAnswer { text: error.to_string() }
    }
}

/// The client as it stands.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct RestStatus {
    /// Weight used in this minute, by the exchange's count where it has told one.
    pub used: u32,
    /// Weight allowed per minute.
    pub limit: u32,
    /// Percent of it that repairs may use.
    pub share_percent: u32,
    /// End of a pause that the exchange asked for, microseconds since 1970.
    pub limited_until: Option<i64>,
    /// End of a ban, microseconds since 1970.
    pub banned_until: Option<i64>,
    /// The latest failure in words; empty when there was none.
    pub last_error: String,
    /// The exchange's clock minus ours in microseconds; `None` until it was measured.
    pub clock_offset_us: Option<i64>,
    /// Requests sent.
    pub requests: u64,
    /// Requests that got no usable answer.
    pub failures: u64,
}

/// An error with its causes: reqwest keeps the interesting part (`connection refused`) in the last one.
pub(super) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
