//! Receives the log lines and errors of librdkafka, and classifies errors for the callers of the log.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tracing::{debug, warn};

use crate::log::LogError;

/// Remembers the last error of the clients that share it: the error of a call that timed out does not contain the
/// reason.
#[derive(Clone, Default)]
pub(super) struct ErrorTracker {
    last: Arc<Mutex<Option<(Code, String)>>>,
    /// The reason why the broker refused access. It is kept apart because "all brokers are down" follows at once.
    refusal: Arc<Mutex<Option<String>>>,
}

impl ClientContext for ErrorTracker {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // For librdkafka a broker that is down is an error; the recorder only waits for it.
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
            // "All brokers are down" follows the more specific error of each broker.
            if code != Code::AllBrokersDown || last.is_none() {
                *last = Some((code, reason.to_owned()));
            }
        }
    }
}

impl ConsumerContext for ErrorTracker {}

impl ErrorTracker {
    /// Classifies an error of the operation `doing`: fatal if a setting must change, else unavailable.
    pub(super) fn classify(&self, doing: &str, error: &KafkaError) -> LogError {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let because = last.as_ref().map(|(_, reason)| format!(" ({reason})")).unwrap_or_default();
        let code = error.rdkafka_error_code();
        let is_fatal = match error {
            KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) | KafkaError::Nul(_) => true,
            // The consumer joins again after a fence.
            KafkaError::MessageConsumptionFatal(code) => *code != Code::FencedInstanceId,
            // A time-out may be the consequence of an earlier refusal.
            _ => code.is_some_and(needs_operator) || last.is_some_and(|(code, _)| needs_operator(code)),
        };
        if !is_fatal {
            return LogError::Unavailable(format!("{doing}: {error}{because}"));
        }
        let hint = match error {
            KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) if !cfg!(feature = "kafka-tls") => {
                "; TLS and SCRAM need a build with the feature kafka-tls"
            }
            _ => "",
        };
        LogError::Fatal(format!("{doing}: {error}{because}{hint}"))
    }

    /// The last error of a client, for the message of a call that timed out.
    pub(super) fn reason(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map_or_else(|| "the broker does not answer".to_owned(), |(_, reason)| reason.clone())
    }

    /// The reason why the broker refused access, if it did.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets earlier errors, because a broker has responded.
    pub(super) fn clear(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Whether the recorder does not trust the certificate of the broker. At start that is fatal; later the recorder waits,
/// because an operator may renew a certificate a moment before its authority.
fn is_untrusted(code: Code, reason: &str) -> bool {
    code == Code::SSL && reason.contains("certificate")
}

/// Whether the error remains until an operator changes something.
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
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_broker_that_is_down_is_unavailable_and_names_the_reason() {
        let errors = ErrorTracker::default();
        errors.error(KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        let error = errors.classify("list the topic", &KafkaError::MetadataFetch(Code::OperationTimedOut));
        assert!(matches!(&error, LogError::Unavailable(why) if why.contains("1/1 brokers are down")), "{error}");
    }

    #[test]
    fn the_error_of_one_broker_is_kept_when_all_brokers_are_down() {
        let errors = ErrorTracker::default();
        errors.error(KafkaError::Global(Code::BrokerTransportFailure), "connecting to a SSL listener?");
        errors.error(KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(errors.reason(), "connecting to a SSL listener?");
    }

    #[test]
    fn an_untrusted_certificate_is_a_refusal_and_classified_as_unavailable() {
        let errors = ErrorTracker::default();
        errors.error(KafkaError::Global(Code::SSL), "SSL handshake failed: certificate verify failed");
        assert!(errors.refusal().is_some());
        let error = errors.classify("list the topic", &KafkaError::MetadataFetch(Code::OperationTimedOut));
        assert!(matches!(&error, LogError::Unavailable(why) if why.contains("verify failed")), "{error}");
    }

    #[test]
    fn a_wrong_password_is_fatal_until_a_broker_responds() {
        let errors = ErrorTracker::default();
        errors.error(KafkaError::Global(Code::Authentication), "SASL authentication failed");
        let error = errors.classify("list the topic", &KafkaError::MetadataFetch(Code::OperationTimedOut));
        assert!(matches!(&error, LogError::Fatal(why) if why.contains("SASL authentication failed")), "{error}");
        errors.clear();
        let error = errors.classify("list the topic", &KafkaError::MetadataFetch(Code::OperationTimedOut));
        assert!(matches!(error, LogError::Unavailable(_)));
    }
}
