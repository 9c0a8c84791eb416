//! Aggregate trades and trades of one symbol: each has a numbering of its own.

use super::*;
use crate::exchange::changed_dialect::ChangedDialect;
use crate::exchange::spec::{ChannelKind, ChannelSpec, Spec};

/// The aggregate `id` of trades 10 x `id` to 10 x `id` + 9.
fn agg_trade(id: i64) -> String {
    let (first, last) = (10 * id, 10 * id + 9);
    format!(
        r#"{{"stream":"btcusdt@aggTrade","data":{{"e":"aggTrade","E":{id},"s":"BTCUSDT","a":{id},"p":"1.5","q":"2","f":{first},"l":{last},"T":{id},"m":true,"M":true}}}}"#
    )
}

fn rows(ready: &ReadyBatch, channel: Channel) -> Vec<i64> {
    let of_channel = ready.rows.batch.trades.iter().filter(|row| row.trade.channel() == channel);
    of_channel.map(|row| row.trade.id).collect()
}

#[test]
fn each_channel_has_its_own_order_and_its_own_gaps() {
    let frames = [trade(5), agg_trade(900), trade(6), agg_trade(901), trade(9), agg_trade(905), agg_trade(906)];
    let (_, ready) = sort(&frames);
    assert_eq!(rows(&ready, Channel::Trade), [5, 6, 9]);
    assert_eq!(rows(&ready, Channel::AggTrade), [900, 901, 905, 906]);
    let mut found: Vec<_> =
        ready.detected.iter().map(|gap| (gap.stream.channel, gap.range.first, gap.range.last)).collect();
    found.sort_unstable();
    assert_eq!(found, [(Channel::Trade, 7, 8), (Channel::AggTrade, 902, 904)]);
    let aggregate = ready.rows.batch.trades.iter().find(|row| row.trade.id == 900).unwrap();
    assert_eq!(aggregate.trade.trade_ids, Some((9_000, 9_009)));
}

#[test]
fn an_aggregate_that_comes_twice_is_one_row() {
    let (_, ready) = sort(&[agg_trade(900), agg_trade(901), agg_trade(900), agg_trade(901)]);
    assert_eq!((rows(&ready, Channel::AggTrade), gaps(&ready)), (vec![900, 901], vec![]));
    assert!(ready.repeated.is_empty(), "{:?}", ready.repeated);
}

#[test]
fn aggregates_begin_behind_their_own_watermark() {
    let mut buffer = new_buffer();
    let stream = |channel| Stream::new(Exchange::named("binance"), crate::market::Symbol::new("BTCUSDT"), channel);
    let mark = |position| Watermark { position, ts: None };
    buffer.seed([(stream(Channel::Trade), mark(5)), (stream(Channel::AggTrade), mark(898))]);
    for (offset, payload) in [trade(6), agg_trade(900)].into_iter().enumerate() {
        buffer.push(record(offset as i64, payload));
    }
    declare(&mut buffer, i64::MAX / 2);
    let ready = buffer.take_ready();
    assert_eq!((gaps(&ready), rows(&ready, Channel::Trade)), (vec![(899, 899)], vec![6]));
}

#[test]
fn a_kline_of_an_exchange_whose_klines_prove_no_trades_is_believed_whatever_it_counts() {
    let without_proof = ChangedDialect::new(Binance, |spec| {
        let changed = |channel: &ChannelSpec| match channel.kind {
            ChannelKind::Kline { intervals, close, .. } => {
                ChannelSpec { kind: ChannelKind::Kline { intervals, close, names_trades: false }, ..*channel }
            }
            _ => *channel,
        };
        let channels: Vec<ChannelSpec> = spec.channels.iter().map(changed).collect();
        Spec { channels: channels.leak(), ..spec }
    });
    // 2.5: "n=2723 against 2729".
    let counted = kline(10, true, 2_729).replace("\"n\":2729", "\"n\":2723");
    let of = |dialect: Arc<dyn Dialect>| {
        let mut buffer = ReorderBuffer::new([dialect]);
        buffer.push(record(0, counted.clone()));
        declare(&mut buffer, i64::MAX / 2);
        let ready = buffer.take_ready();
        (ready.rows.batch.klines.len(), ready.rows.batch.dead_letters.len())
    };
    assert_eq!(of(Arc::new(without_proof)), (1, 0));
    assert_eq!(of(Arc::new(Binance)), (0, 1), "on spot it is a proof");
}

#[test]
fn an_aggregate_of_other_trades_is_another_content() {
    let other = agg_trade(900).replace("\"l\":9009", "\"l\":9008");
    let (mut buffer, ready) = sort(&[agg_trade(900), agg_trade(901), other]);
    assert_eq!(rows(&ready, Channel::AggTrade), [900, 901]);
    let asked: Vec<Stream> = buffer.take_doubtful().into_iter().map(|question| question.stream).collect();
    assert_eq!(asked.first().map(|stream| stream.channel), Some(Channel::AggTrade), "the exchange decides");
}
