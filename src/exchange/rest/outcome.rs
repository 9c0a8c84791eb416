//! The errors of a request, and the client's status.

use super::deadlines::Deadline;
use crate::exchange::Request;

/// Why a request has no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// The budget is used up or the exchange requires a pause: send again at `until`.
    #[error("the exchange's request limit is reached until {until}")]
    Limited {
        /// When to send again.
        until: Deadline,
    },
    /// The exchange has banned this address: the client sends nothing before `until`.
    #[error("the exchange has banned this address until {until}")]
    Banned {
        /// When the ban ends.
        until: Deadline,
    },
    /// The exchange refuses this address (403, 451): the client sends nothing for five minutes.
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
    /// The exchange does not serve this over REST, or no row that old.
    #[error("{text}")]
    NotOffered {
        /// In plain words.
        text: String,
    },
    /// An unusable answer: another 4xx, a redirect, compressed, undecodable, too large. Nothing of it is believed, and a
    /// retry at once will not help.
    #[error("{text}")]
    BadAnswer {
        /// What is wrong with it.
        text: String,
    },
    /// No answer, or a 5xx: a later retry may help.
    #[error("{text}")]
    Unavailable {
        /// What happened.
        text: String,
    },
    /// `stop` was cancelled.
    #[error("stopped")]
    Stopped,
}

/// The client's present state.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct RestStatus {
    /// Weight used in this minute, by the exchange's count where it has reported one.
    pub used: u32,
    /// Weight allowed per minute.
    pub limit: u32,
    /// Percent of the limit that repairs may use.
    pub share_percent: u32,
    /// End of a pause that the exchange requires (HTTP 429), RFC 3339; null without one.
    pub limited_until: Option<String>,
    /// End of a ban of this address (HTTP 418), RFC 3339; null without one.
    pub banned_until: Option<String>,
    /// The last failure in words; empty when there was none.
    pub last_error: String,
    /// The exchange's clock minus ours in microseconds; `None` before the first measurement.
    pub clock_offset_us: Option<i64>,
    /// Requests sent.
    pub requests: u64,
    /// Requests that got no usable answer.
    pub failures: u64,
}

/// The words for a request that a venue does not have.
pub(super) fn not_offered(title: &str, request: &Request<'_>) -> String {
    match request {
        Request::Trades { series, .. } => format!("{title} returns no lost {} over its public REST", series.channel),
        _ => format!("{title} does not offer it"),
    }
}

/// An error with its causes: reqwest puts the useful part (`connection refused`) in the last cause.
pub(super) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
