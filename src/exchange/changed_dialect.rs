//! For tests: a venue of which one fact is another.

use std::sync::Arc;

use super::spec::{Bucket, RestSpec, Spec};
use super::{
    Answer, AnswerError, DecodeError, Dialect, MarketEvent, Request, RestAnswer, RestReply, RestRequest, Route,
    SubscriptionChange,
};
use crate::market::{Channel, SpellingError, Stream, Symbol};

/// A dialect with another spec.
pub struct ChangedDialect {
    inner: Arc<dyn Dialect>,
    spec: &'static Spec,
}

impl ChangedDialect {
    /// The dialect with a changed spec.
    pub fn new(inner: impl Dialect + 'static, change: impl FnOnce(Spec) -> Spec) -> Self {
        let spec = Box::leak(Box::new(change(*inner.spec())));
        Self { inner: Arc::new(inner), spec }
    }

    /// The dialect without request limits.
    pub fn unlimited(inner: impl Dialect + 'static) -> Self {
        Self::new(inner, |spec| {
            let buckets = vec![Bucket::Leaky { per_second: 100_000, burst: 100_000 }; spec.rest.buckets.len()];
            Spec { rest: RestSpec { buckets: buckets.leak(), ..spec.rest }, ..spec }
        })
    }
}

impl Dialect for ChangedDialect {
    fn spec(&self) -> &'static Spec {
        self.spec
    }
    fn symbol(&self, text: &str) -> Result<Symbol, SpellingError> {
        self.inner.symbol(text)
    }
    fn subscribe(&self, change: SubscriptionChange, streams: &[Stream], first_id: u64) -> Vec<String> {
        self.inner.subscribe(change, streams, first_id)
    }
    fn stream_name(&self, stream: &Stream) -> String {
        self.inner.stream_name(stream)
    }
    fn channel(&self, stream_name: &str) -> Option<Channel> {
        self.inner.channel(stream_name)
    }
    fn route<'a>(&self, payload: &'a [u8]) -> Route<'a> {
        self.inner.route(payload)
    }
    fn decode<'a>(&self, payload: &'a [u8], sink: &mut dyn FnMut(MarketEvent<'a>)) -> Result<(), DecodeError> {
        self.inner.decode(payload, sink)
    }
    fn ask(&self, request: &Request<'_>) -> Option<RestRequest> {
        self.inner.ask(request)
    }
    fn answer(&self, request: &Request<'_>, answer: &RestAnswer<'_>) -> Result<Answer, DecodeError> {
        self.inner.answer(request, answer)
    }
    fn judge(&self, reply: &RestReply<'_>) -> Option<AnswerError> {
        self.inner.judge(reply)
    }
}
