//! What an answer that is not data means: a pause, a ban, an unknown symbol, or nothing usable. Updates the budget with
//! the pause or ban that the answer imposes, and reports it.

use std::time::Duration;

use super::Rest;
use super::answer::{Answer, quote};
use super::deadlines::{Deadline, micros};
use super::outcome::RestError;
use crate::exchange::retry_after::wait_until;
use crate::exchange::{AnswerErrorKind, RestReply, refused_address};
use crate::market::Timestamp;
use crate::messages;

/// The pause after a 403 or 451, which lasts until someone changes the address.
const REFUSED_WAIT: Duration = Duration::from_secs(300);
/// The pause after a 429 without Retry-After: until the next minute's budget.
const LIMITED_WAIT: Duration = Duration::from_secs(60);
/// The ban after a 418 without a deadline: the shortest ban, "2 min ... 3 days".
const BANNED_WAIT: Duration = Duration::from_secs(120);

/// The end of a ban that the answer names.
const fn end_of(kind: Option<AnswerErrorKind>) -> Option<Timestamp> {
    match kind {
        Some(AnswerErrorKind::Banned(until)) => until,
        _ => None,
    }
}

/// Why a request failed.
pub(super) struct Failed {
    pub(super) error: RestError,
    /// The exchange's own words, where `error` does not have them; for status and log.
    pub(super) detail: String,
}

impl From<RestError> for Failed {
    fn from(error: RestError) -> Self {
        Self { error, detail: String::new() }
    }
}

impl Rest {
    /// The error that an answer names: by its status, and for a status that says little by the error object in its body.
    /// An error object counts with status 200 too. `None`: the answer is data.
    pub(super) fn failure_in(&self, answer: &Answer, requested_wait: Option<Duration>) -> Option<Failed> {
        let status = answer.status.as_u16();
        let header = |name: &str| answer.header(name);
        let named = self.dialect.judge(&RestReply { status, header: &header, body: &answer.body });
        if answer.status.is_success() && named.is_none() {
            return None;
        }
        let words = match &named {
            Some(named) if !named.code.is_empty() => {
                format!("HTTP {status}, code {}: {}", quote(named.code.as_bytes()), quote(named.msg.as_bytes()))
            }
            _ => answer.description(),
        };
        let failed = match (status, named.as_ref().map(|named| named.kind)) {
            // "418 ban 2 min ... 3 days, Retry-After = seconds until the ban ends; IP banned until <epoch ms>".
            (418, kind) => self.banned(answer, requested_wait, end_of(kind), words),
            // "429 -> Retry-After seconds; ignoring it -> 418".
            (429, _) => self.limited(answer, requested_wait, words),
            (_, kind @ Some(AnswerErrorKind::Banned(_))) => self.banned(answer, requested_wait, end_of(kind), words),
            (_, Some(AnswerErrorKind::BannedFor(wait))) => {
                self.banned(answer, requested_wait.or(Some(wait)), None, words)
            }
            // "403 = WAF"; 451 = a geo-block.
            (403 | 451, _) => self.refused(answer, words),
            // "5xx = unknown"; -1007 = the exchange's own timeout.
            (500.. | 408, _) => RestError::Unavailable { text: format!("the exchange answered {words}") }.into(),
            (_, Some(AnswerErrorKind::Limited)) => self.limited(answer, requested_wait, words),
            (_, Some(AnswerErrorKind::UnknownSymbol)) => {
                let text = named.map(|named| quote(named.msg.as_bytes())).unwrap_or_default();
                RestError::UnknownSymbol { text }.into()
            }
            (_, Some(AnswerErrorKind::TooOld)) => {
                RestError::NotOffered { text: format!("the exchange no longer serves it: {words}") }.into()
            }
            (_, Some(AnswerErrorKind::Unavailable)) => {
                RestError::Unavailable { text: format!("the exchange answered {words}") }.into()
            }
            (_, Some(AnswerErrorKind::Other) | None) => {
                RestError::BadAnswer { text: format!("the exchange answered {words}") }.into()
            }
        };
        Some(failed)
    }

    fn banned(
        &self,
        answer: &Answer,
        requested_wait: Option<Duration>,
        end: Option<Timestamp>,
        detail: String,
    ) -> Failed {
        let now = answer.answered_at;
        // Retry-After counts from now. The body names an instant of the exchange's clock, which may be far from ours: use
        // it only without the header, and compare it with the exchange's clock as last measured.
        let from_body = || Some(wait_until(end?, self.exchange_clock().now(now)));
        let wait = requested_wait.or_else(from_body).unwrap_or(BANNED_WAIT);
        let until = now.steady.plus_micros(micros(wait));
        self.budget().ban(until);
        self.deadline_moved.notify_one();
        let until = Deadline::at(until, now);
        tracing::error!(
            MESSAGE_ID = messages::BANNED,
            %until,
            "the exchange has banned this address until {until}: no request is sent before ({detail})"
        );
        Failed { error: RestError::Banned { until }, detail }
    }

    fn limited(&self, answer: &Answer, requested_wait: Option<Duration>, detail: String) -> Failed {
        let now = answer.answered_at;
        let until = now.steady.plus_micros(micros(requested_wait.unwrap_or(LIMITED_WAIT)));
        self.budget().pause(until);
        self.deadline_moved.notify_one();
        let until = Deadline::at(until, now);
        tracing::warn!(%until, "the exchange limits our requests until {until} ({detail})");
        Failed { error: RestError::Limited { until }, detail }
    }

    fn refused(&self, answer: &Answer, detail: String) -> Failed {
        let status = answer.status.as_u16();
        self.budget().refuse(answer.answered_at.steady.plus_micros(micros(REFUSED_WAIT)));
        let text = refused_address(status, "rest_url");
        tracing::error!(status, "{text}");
        Failed { error: RestError::Refused { text }, detail }
    }
}
