//! The subscription requests of one connection and their answers. Pure: the session does the I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::exchange::{Dialect, SubscriptionAnswer, SubscriptionChange};
use crate::market::Stream;

/// The requests of one connection.
pub(super) struct Subscriptions {
    dialect: Arc<dyn Dialect>,
    /// Streams that were requested and neither refused nor unsubscribed since.
    requested: BTreeSet<Stream>,
    outbox: VecDeque<Request>,
    /// Requests that were sent and not answered, by our number.
    pending: BTreeMap<u64, Request>,
    next_id: u64,
    /// Streams that were acknowledged or are overdue, and that [`Subscriptions::take_accepted`] has not returned yet.
    accepted: Vec<Stream>,
}

#[derive(Debug)]
struct Request {
    id: u64,
    text: String,
    streams: Vec<Stream>,
    /// The exchange's names of `streams`.
    names: Vec<String>,
    is_unsubscribe: bool,
    /// No answer came in time: its streams count as accepted.
    overdue: bool,
}

/// One stream that the exchange refuses to serve.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) stream: Stream,
    pub(super) reason: String,
}

impl Subscriptions {
    pub(super) fn new(dialect: Arc<dyn Dialect>, streams: &[Stream]) -> Self {
        let mut new = Self {
            dialect,
            requested: BTreeSet::new(),
            outbox: VecDeque::new(),
            pending: BTreeMap::new(),
            next_id: 1,
            accepted: Vec::new(),
        };
        new.subscribe(streams);
        new
    }

    /// How many streams this connection carries, or will once they are acknowledged.
    pub(super) fn len(&self) -> usize {
        self.requested.len()
    }

    /// Subscribes to new streams and unsubscribes from those that are no longer wanted.
    pub(super) fn set(&mut self, streams: &[Stream]) {
        let wanted: BTreeSet<Stream> = streams.iter().cloned().collect();
        let gone: Vec<Stream> = self.requested.difference(&wanted).cloned().collect();
        let new: Vec<Stream> = wanted.difference(&self.requested).cloned().collect();
        self.unsubscribe(&gone);
        self.subscribe(&new);
    }

    /// Unsubscribes from streams that this connection carries, and subscribes to them again.
    pub(super) fn resubscribe(&mut self, streams: &[Stream]) {
        let known: Vec<Stream> = streams.iter().filter(|stream| self.requested.contains(stream)).cloned().collect();
        self.unsubscribe(&known);
        self.subscribe(&known);
    }

    /// Whether a request waits in the outbox.
    pub(super) fn has_unsent(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Takes the next request to send; it is pending from here on.
    pub(super) fn next_request(&mut self) -> Option<String> {
        let request = self.outbox.pop_front()?;
        let text = request.text.clone();
        self.pending.insert(request.id, request);
        Some(text)
    }

    /// Handles an answer. A refused request with several streams is sent again in halves, until the bad stream is
    /// alone: the exchange accepts the others.
    pub(super) fn handle_answer(&mut self, answer: SubscriptionAnswer<'_>) -> Vec<Refusal> {
        let SubscriptionAnswer { id, streams, error } = answer;
        if !streams.is_empty() {
            let answered = |name: &str| self.handle_named(id, name, error.as_deref());
            return streams.iter().map(|name| name.as_ref()).filter_map(answered).collect();
        }
        // An error without a number can only mean the oldest request, of those that subscribe if there are any: an
        // exchange may never answer the end of a subscription. An acknowledgement without our number acknowledges
        // nothing: the request counts as accepted once it is overdue.
        let oldest = || {
            let subscribes = self.pending.iter().find(|(_, request)| !request.is_unsubscribe);
            subscribes.or_else(|| self.pending.iter().next()).map(|(id, _)| *id)
        };
        let id = id.or_else(|| error.as_ref().and_then(|_| oldest()));
        let Some(request) = id.and_then(|id| self.pending.remove(&id)) else { return Vec::new() };
        let Some(reason) = error else {
            if !request.is_unsubscribe && !request.overdue {
                self.accepted.extend(request.streams.into_iter().filter(|stream| self.requested.contains(stream)));
            }
            return Vec::new();
        };
        if request.is_unsubscribe {
            tracing::debug!(reason, "the exchange refused to end a subscription");
            return Vec::new();
        }
        if let [stream] = request.streams.as_slice() {
            self.requested.remove(stream);
            return vec![Refusal { stream: stream.clone(), reason }];
        }
        let (left, right) = request.streams.split_at(request.streams.len() / 2);
        self.queue(right, false);
        self.queue(left, false);
        Vec::new()
    }

    /// Handles the answer for one stream of a request; the request stays pending until each of its streams is answered.
    fn handle_named(&mut self, id: Option<u64>, name: &str, error: Option<&str>) -> Option<Refusal> {
        let of = |request: &Request| request.names.iter().position(|known| known == name);
        // An acknowledgement without a number lists what is subscribed: it says nothing about the end of a subscription.
        let fits = |pending: u64, request: &Request| match id {
            Some(id) => id == pending,
            None => error.is_some() || !request.is_unsubscribe,
        };
        let mut candidates = self.pending.iter().filter(|(pending, request)| fits(**pending, request));
        let (id, index) = candidates.find_map(|(id, request)| Some((*id, of(request)?)))?;
        let request = self.pending.get_mut(&id)?;
        let stream = request.streams.remove(index);
        request.names.remove(index);
        let (is_unsubscribe, overdue) = (request.is_unsubscribe, request.overdue);
        if request.streams.is_empty() {
            self.pending.remove(&id);
        }
        match error {
            None if is_unsubscribe || overdue || !self.requested.contains(&stream) => None,
            None => {
                self.accepted.push(stream);
                None
            }
            Some(reason) if is_unsubscribe => {
                tracing::debug!(reason, "the exchange refused to end a subscription");
                None
            }
            Some(reason) => {
                self.requested.remove(&stream);
                Some(Refusal { stream, reason: reason.to_owned() })
            }
        }
    }

    /// Takes the streams to report as connected; `None` while a subscription is unanswered.
    pub(super) fn take_accepted(&mut self) -> Option<Vec<Stream>> {
        let waiting =
            self.outbox.iter().chain(self.pending.values()).any(|request| !request.is_unsubscribe && !request.overdue);
        if waiting || self.accepted.is_empty() {
            return None;
        }
        Some(std::mem::take(&mut self.accepted))
    }

    /// Counts unanswered requests as accepted, because the exchange did not answer in time. Returns how many streams
    /// that concerns.
    pub(super) fn accept_overdue(&mut self) -> usize {
        let mut overdue = 0;
        // Nothing waits for the end of a subscription.
        self.pending.retain(|_, request| !request.is_unsubscribe);
        for request in self.pending.values_mut().filter(|request| !request.is_unsubscribe && !request.overdue) {
            request.overdue = true;
            overdue += request.streams.len();
            self.accepted.extend(request.streams.iter().filter(|stream| self.requested.contains(stream)).cloned());
        }
        overdue
    }

    /// Whether a stream was requested and neither refused nor ended since.
    pub(super) fn carries(&self, stream: &Stream) -> bool {
        self.requested.contains(stream)
    }

    /// Subscribes to streams that this connection does not carry yet.
    pub(super) fn subscribe(&mut self, streams: &[Stream]) {
        let new: Vec<Stream> =
            streams.iter().filter(|stream| self.requested.insert((*stream).clone())).cloned().collect();
        self.queue(&new, false);
    }

    fn unsubscribe(&mut self, streams: &[Stream]) {
        for stream in streams {
            self.requested.remove(stream);
        }
        self.queue(streams, true);
    }

    /// Puts requests for `streams` at the end of the outbox. It splits the streams until each part fits one request,
    /// so that the number of an answer identifies its streams.
    fn queue(&mut self, streams: &[Stream], is_unsubscribe: bool) {
        let mut streams = streams.to_vec();
        // An exchange may take one channel per request: halves then have few of them.
        streams.sort_by(|a, b| (a.channel, &a.symbol).cmp(&(b.channel, &b.symbol)));
        self.queue_sorted(&streams, is_unsubscribe);
    }

    fn queue_sorted(&mut self, streams: &[Stream], is_unsubscribe: bool) {
        if streams.is_empty() {
            return;
        }
        let mut texts = self.build(streams, is_unsubscribe);
        if texts.len() > 1 && streams.len() > 1 {
            let (left, right) = streams.split_at(streams.len() / 2);
            self.queue_sorted(left, is_unsubscribe);
            self.queue_sorted(right, is_unsubscribe);
            return;
        }
        if let Some(text) = texts.pop() {
            self.outbox.push_back(Request {
                id: self.next_id,
                text,
                streams: streams.to_vec(),
                names: streams.iter().map(|stream| self.dialect.stream_name(stream)).collect(),
                is_unsubscribe,
                overdue: false,
            });
            self.next_id += 1;
        }
    }

    fn build(&self, streams: &[Stream], is_unsubscribe: bool) -> Vec<String> {
        let change = if is_unsubscribe { SubscriptionChange::Unsubscribe } else { SubscriptionChange::Subscribe };
        self.dialect.subscribe(change, streams, self.next_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::binance::Binance;
    use crate::exchange::kraken::Kraken;
    use crate::market::{Channel, Exchange, Interval, Symbol};

    fn streams(count: usize) -> Vec<Stream> {
        let stream = |n| Stream::new(Exchange::named("binance"), Symbol::new(&format!("SYM{n:04}")), Channel::Trade);
        (0..count).map(stream).collect()
    }

    fn new(count: usize) -> Subscriptions {
        Subscriptions::new(Arc::new(Binance), &streams(count))
    }

    fn answer(id: Option<u64>, error: Option<String>) -> SubscriptionAnswer<'static> {
        SubscriptionAnswer { id, error, ..SubscriptionAnswer::default() }
    }

    #[test]
    fn an_answer_may_name_its_streams_one_by_one() {
        let mut subscriptions = new(3);
        subscriptions.next_request();
        let named = |name: &'static str, error: Option<&str>| SubscriptionAnswer {
            id: Some(1),
            streams: vec![name.into()],
            error: error.map(str::to_owned),
        };
        assert_eq!(subscriptions.handle_answer(named("sym0001@trade", None)), []);
        assert_eq!(subscriptions.handle_answer(named("other@trade", None)), [], "we did not request it");
        assert_eq!(subscriptions.take_accepted(), None, "two are unanswered");
        let refusals = subscriptions.handle_answer(named("sym0000@trade", Some("no")));
        assert_eq!(refusals, [Refusal { stream: streams(1)[0].clone(), reason: "no".to_owned() }]);
        subscriptions.handle_answer(SubscriptionAnswer { id: None, ..named("sym0002@trade", None) });
        assert_eq!(subscriptions.take_accepted(), Some(streams(3)[1..].to_vec()));
        assert_eq!(subscriptions.len(), 2);
        // A list of what is subscribed accepts the new subscription, not the end of the old one.
        subscriptions.resubscribe(&streams(3)[1..2]);
        while subscriptions.next_request().is_some() {}
        subscriptions.handle_answer(SubscriptionAnswer { id: None, ..named("sym0001@trade", None) });
        assert_eq!(subscriptions.take_accepted(), Some(streams(3)[1..2].to_vec()));
    }

    /// Sends every request and answers it with `error_of` its text, until none is left.
    fn drive(subscriptions: &mut Subscriptions, error_of: impl Fn(&str) -> Option<String>) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        while let Some(text) = subscriptions.next_request() {
            let id = serde_json::from_str::<serde_json::Value>(&text).unwrap()["id"].as_u64();
            refusals.extend(subscriptions.handle_answer(answer(id, error_of(&text))));
        }
        refusals
    }

    #[test]
    fn streams_are_reported_when_all_requests_are_acknowledged() {
        let mut subscriptions = new(1_024);
        let first = subscriptions.next_request().unwrap();
        assert!(first.len() < 4_096);
        subscriptions.handle_answer(answer(Some(1), None));
        assert_eq!(subscriptions.take_accepted(), None);
        assert!(drive(&mut subscriptions, |_| None).is_empty());
        let mut accepted = subscriptions.take_accepted().unwrap();
        accepted.sort();
        assert_eq!(accepted, streams(1_024));
        assert_eq!(subscriptions.take_accepted(), None);
    }

    #[test]
    fn a_refused_stream_is_isolated_and_the_rest_kept() {
        let mut subscriptions = new(100);
        let bad = |text: &str| text.contains("sym0041").then(|| "-1121: Invalid symbol.".to_owned());
        let refusals = drive(&mut subscriptions, bad);
        let expected = Refusal { stream: streams(42)[41].clone(), reason: "-1121: Invalid symbol.".to_owned() };
        assert_eq!(refusals, [expected]);
        assert_eq!(subscriptions.take_accepted().unwrap().len(), 99);
        assert_eq!(subscriptions.len(), 99);
    }

    #[test]
    fn an_error_without_a_number_refuses_the_oldest_request() {
        let mut subscriptions = new(1);
        subscriptions.next_request();
        let refusals = subscriptions.handle_answer(answer(None, Some("2: no".to_owned())));
        assert_eq!(refusals[0].stream, streams(1)[0]);
        assert_eq!(subscriptions.handle_answer(answer(Some(77), None)), []);
        assert_eq!(subscriptions.handle_answer(answer(None, Some("again".to_owned()))), []);
    }

    #[test]
    fn an_unanswered_stream_counts_as_accepted_and_may_still_be_refused() {
        let mut subscriptions = new(1);
        subscriptions.next_request();
        assert_eq!(subscriptions.take_accepted(), None);
        assert_eq!(subscriptions.accept_overdue(), 1);
        assert_eq!(subscriptions.take_accepted(), Some(streams(1)));
        assert_eq!(subscriptions.accept_overdue(), 0);
        assert_eq!(subscriptions.handle_answer(answer(Some(1), Some("late".to_owned()))).len(), 1);
        assert_eq!(subscriptions.take_accepted(), None);
    }

    #[test]
    fn a_new_list_changes_only_what_differs() {
        let mut subscriptions = new(3);
        drive(&mut subscriptions, |_| None);
        subscriptions.take_accepted();
        subscriptions.set(&streams(4)[1..]);
        let ends = subscriptions.next_request().unwrap();
        assert!(ends.contains("UNSUBSCRIBE") && ends.contains("sym0000") && !ends.contains("sym0001"), "{ends}");
        let adds = subscriptions.next_request().unwrap();
        assert!(adds.contains(r#""SUBSCRIBE""#) && adds.contains("sym0003") && !adds.contains("sym0001"), "{adds}");
        subscriptions.handle_answer(answer(Some(3), None));
        assert_eq!(subscriptions.take_accepted(), Some(streams(4)[3..].to_vec()));
    }

    #[test]
    fn a_refusal_without_a_number_means_a_subscription_not_the_end_of_one() {
        let mut subscriptions = new(2);
        drive(&mut subscriptions, |_| None);
        subscriptions.take_accepted();
        subscriptions.set(&streams(1));
        subscriptions.next_request();
        subscriptions.set(&[streams(1), streams(3)[2..].to_vec()].concat());
        subscriptions.next_request();
        let refusals = subscriptions.handle_answer(answer(None, Some("no such symbol".to_owned())));
        assert_eq!(refusals.len(), 1);
        assert_eq!(refusals[0].stream, streams(3)[2]);
        // An end that is never answered is forgotten.
        subscriptions.accept_overdue();
        assert_eq!(subscriptions.handle_answer(answer(None, Some("late".to_owned()))), []);
    }

    #[test]
    fn channels_share_requests_where_a_request_has_one_channel() {
        let of = |channel| {
            let symbol = move |n| Symbol::new(&format!("A{n:03}/USD"));
            (0..50).map(move |n| Stream::new(Exchange::named("kraken"), symbol(n), channel))
        };
        let streams: Vec<Stream> = [Channel::Trade, Channel::Kline(Interval::M1)].into_iter().flat_map(of).collect();
        let mut subscriptions = Subscriptions::new(Arc::new(Kraken), &streams);
        let requests = std::iter::from_fn(|| subscriptions.next_request()).count();
        assert!(requests <= 4, "{requests} requests for two channels");
    }

    #[test]
    fn a_resubscription_unsubscribes_first() {
        let mut subscriptions = new(2);
        drive(&mut subscriptions, |_| None);
        subscriptions.take_accepted();
        subscriptions.resubscribe(&streams(3)[1..]);
        assert!(subscriptions.next_request().unwrap().contains("UNSUBSCRIBE"));
        assert!(subscriptions.next_request().unwrap().contains("sym0001"));
        assert!(!subscriptions.has_unsent());
    }
}
