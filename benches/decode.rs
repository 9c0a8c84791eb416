//! The cost of routing and of decoding a frame, in nanoseconds. Run: `cargo bench --bench decode`.

use std::hint::black_box;
use std::time::Instant;

use tapekeeper::exchange::Dialect as _;
use tapekeeper::exchange::binance::Binance;

const ROUNDS: u32 = 2_000_000;

const FRAMES: [(&str, &str); 3] = [
    (
        "trade",
        r#"{"stream":"ethusdt@trade","data":{"e":"trade","E":1723161255612,"s":"ETHUSDT","t":1520538925,"p":"2683.80000000","q":"0.00200000","T":1723161255611,"m":true,"M":true}}"#,
    ),
    (
        "kline",
        r#"{"stream":"nknusdt@kline_1m","data":{"e":"kline","E":1633998523963,"s":"NKNUSDT","k":{"t":1633998480000,"T":1633998539999,"s":"NKNUSDT","i":"1m","f":19862761,"L":19862790,"o":"0.35270000","c":"0.35280000","h":"0.35280000","l":"0.35220000","v":"25877.00000000","n":30,"x":false,"q":"9116.04600000","V":"58.00000000","Q":"20.46240000","B":"0"}}}"#,
    ),
    (
        "bookTicker",
        r#"{"stream":"xemusdt@bookTicker","data":{"u":542937457,"s":"XEMUSDT","b":"0.04100000","B":"485240.00000000","a":"0.04110000","A":"44994.00000000"}}"#,
    ),
];

fn main() {
    for (name, frame) in FRAMES {
        let route = nanoseconds(|| {
            black_box(Binance.route(black_box(frame.as_bytes())));
        });
        let decode = nanoseconds(|| {
            let mut sink = |market| drop(black_box(market));
            Binance.decode(black_box(frame.as_bytes()), &mut sink).expect("the frame is valid");
        });
        println!("{name}: route {route:.0} ns/frame, decode {decode:.0} ns/frame");
    }
}

/// The mean time of a call, in nanoseconds.
fn nanoseconds(mut call: impl FnMut()) -> f64 {
    for _ in 0..ROUNDS / 10 {
        call();
    }
    let started = Instant::now();
    for _ in 0..ROUNDS {
        call();
    }
    started.elapsed().as_nanos() as f64 / f64::from(ROUNDS)
}
