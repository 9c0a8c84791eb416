//! What librdkafka says by itself: its log lines and its errors, and what they mean to a caller.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tracing::{debug, warn};

use crate::log::LogError;

/// Remembers the last error of the clients that share it, for messages: a call that timed out does not say why.
#[derive(Clone, Default)]
pub(super) struct ErrorTracker {
    last: Arc<Mutex<Option<(Code, String)>>>,
    /// Why we were not let in: "all brokers are down" follows it at once, and says less.
    refusal: Arc<Mutex<Option<String>>>,
}

impl ClientContext for ErrorTracker {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // A broker that is away is an error to librdkafka; to us it is a reason to wait.
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => warn!(target: "librdkafka", "{facility} {line}"),
            _ => debug!(target: "librdkafka", "{facility} {line}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "librdkafka", "{error}: {reason}");
        if let Some(code) = error.rdkafka_error_code() {
            if needs_operator(code) || is_untrusted(code, reason) {
                *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
            }
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            // That all are down follows why each is, and says less.
            if code != Code::AllBrokersDown || last.is_none() {
                *last = Some((code, reason.to_owned()));
            }
        }
    }
}

impl ConsumerContext for ErrorTracker {}

impl ErrorTracker {
    /// Sorts an error of `doing`. The broker may come back; a setting does not change by itself.
    pub(super) fn classify(&self, doing: &str, error: &KafkaError) -> LogError {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let because = last.as_ref().map(|(_, reason)| format!(" ({reason})")).unwrap_or_default();
        let code = error.rdkafka_error_code();
        let is_fatal = match error {
            KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) | KafkaError::Nul(_) => true,
            KafkaError::MessageConsumptionFatal(_) => true,
            // What timed out may have timed out because it was not let in.
            _ => code.is_some_and(needs_operator) || last.is_some_and(|(code, _)| needs_operator(code)),
        };
        if !is_fatal {
            return LogError::Unavailable(format!("{doing}: {error}{because}"));
        }
        let hint = match error {
            KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) if !cfg!(feature = "kafka-tls") => {
                "; TLS and SCRAM need a build with the feature kafka-tls"
            }
            KafkaError::MessageConsumptionFatal(Code::FencedInstanceId) => {
                "; another recorder uses this name: give each its own `instance`"
            }
            _ => "",
        };
        LogError::Fatal(format!("{doing}: {error}{because}{hint}"))
    }

    /// Why nothing is acknowledged, as far as is known.
    pub(super) fn reason(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map_or_else(|| "the broker does not answer".to_owned(), |(_, reason)| reason.clone())
    }

    /// Why we are not let in, when that is so.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A broker answered: what was said before does not count any more.
    pub(super) fn clear(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Whether the broker's certificate is not one that we trust. At start that is a setting; while we record it is waited
/// for, as a renewed certificate may come a moment before its authority.
fn is_untrusted(code: Code, reason: &str) -> bool {
    code == Code::SSL && reason.contains("certificate")
}

/// Whether waiting does not help.
fn needs_operator(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InvalidTopic
            | Code::PolicyViolation
            | Code::FencedInstanceId
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_away_is_waited_for_and_the_reason_is_told() {
        let errors = ErrorTracker::default();
        errors.error(KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        let error = errors.classify("list the topic", &KafkaError::MetadataFetch(Code::OperationTimedOut));
        assert!(matches!(&error, LogError::Unavailable(why) if why.contains("1/1 brokers are down")), "{error}");
    }

    #[test]
    fn why_a_broker_is_down_says_more_than_that_all_are() {
        let errors = ErrorTracker::default();
        errors.error(KafkaError::Global(Code::BrokerTransportFailure), "connecting to a SSL listener?");
        errors.error(KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(errors.reason(), "connecting to a SSL listener?");
    }

    #[test]
    fn a_certificate_that_is_not_trusted_is_a_refusal_at_start_and_waited_for_later() {
        let errors = ErrorTracker::default();
        errors.error(KafkaError::Global(Code::SSL), "SSL handshake failed: certificate verify failed");
        assert!(errors.refusal().is_some());
        let error = errors.classify("list the topic", &KafkaError::MetadataFetch(Code::OperationTimedOut));
        assert!(matches!(&error, LogError::Unavailable(why) if why.contains("verify failed")), "{error}");
    }

    #[test]
    fn a_wrong_password_is_for_a_person() {
        let errors = ErrorTracker::default();
        errors.error(KafkaError::Global(Code::Authentication), "SASL authentication failed");
        let error = errors.classify("list the topic", &KafkaError::MetadataFetch(Code::OperationTimedOut));
        assert!(matches!(&error, LogError::Fatal(why) if why.contains("SASL authentication failed")), "{error}");
        errors.clear();
        let error = errors.classify("list the topic", &KafkaError::MetadataFetch(Code::OperationTimedOut));
        assert!(matches!(error, LogError::Unavailable(_)));
    }
}
