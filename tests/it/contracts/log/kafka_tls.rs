//! Runs the suite on Kafka behind TLS with SASL/SCRAM, and tests the errors for a wrong authority, password or
//! protocol.
//!
//! It needs a build with the feature kafka-tls, as `tests/run --soak` makes.

use tapekeeper::log::kafka::KafkaLog;
use tapekeeper::log::{Log, LogError, Options};

use super::kafka::KafkaStore;
use super::{frames, frames_of, keeps_every_promise, take};
use crate::program::app::TestApp;
use crate::servers::kafka::Kafka;

/// A topic behind TLS.
fn behind_tls(kafka: &Kafka, partitions: i32) -> Options {
    let mut options = kafka.topic(partitions);
    options.kafka.brokers = format!("127.0.0.1:{}", kafka.tls_port);
    options.kafka.password = Some("geheim".to_owned());
    let authority = kafka.server.directory.path().join("ca.pem").display().to_string();
    for (name, value) in [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "SCRAM-SHA-256"),
        ("sasl.username", "keeper"),
        ("ssl.ca.location", &authority),
    ] {
        options.kafka.client.insert(name.to_owned(), value.to_owned());
    }
    options
}

#[test]
fn kafka_behind_tls_keeps_every_promise() {
    let Some(kafka) = Kafka::start_with_tls() else { return };
    keeps_every_promise(8, &|| Box::new(KafkaStore { options: behind_tls(&kafka, 1), runtime: super::runtime() }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_behind_tls_takes_frames_and_a_refusal_gives_its_reason() {
    let Some(kafka) = tokio::task::spawn_blocking(Kafka::start_with_tls).await.unwrap() else { return };
    let options = behind_tls(&kafka, 1);
    let log = KafkaLog::open(&options, "one").await.unwrap();
    log.append(frames(0..10)).await.unwrap();
    let mut consumer = log.consumer().await.unwrap();
    assert_eq!(frames_of(take(&mut *consumer, 10).await), frames(0..10));
    drop(consumer);
    log.close().await.unwrap();

    let changed = |name: &str, value: &str| {
        let mut options = options.clone();
        match name {
            "password" => options.kafka.password = Some(value.to_owned()),
            name => drop(options.kafka.client.insert(name.to_owned(), value.to_owned())),
        }
        options
    };
    let stranger = kafka.server.directory.path().join("stranger.pem").display().to_string();
    for (options, reason) in [
        (changed("ssl.ca.location", &stranger), "certificate verify failed"),
        (changed("password", "guessed"), "uthentication failed"),
        (changed("sasl.username", "nobody"), "uthentication failed"),
        (changed("sasl.mechanism", "PLAIN"), "mechanism"),
    ] {
        let Err(LogError::Fatal(why)) = KafkaLog::open(&options, "one").await.map(|_| ()) else {
            panic!("not fatal: {reason}")
        };
        assert!(why.contains(reason), "{why}");
        let Err(LogError::Fatal(why)) = KafkaLog::inspect(&options).await.map(|_| ()) else {
            panic!("not fatal: {reason}")
        };
        assert!(why.contains(reason), "{why}");
    }
    // A client without TLS cannot distinguish a TLS listener from a broker that is starting.
    let why = KafkaLog::inspect(&changed("security.protocol", "SASL_PLAINTEXT")).await.map(|_| ()).unwrap_err();
    assert!(matches!(&why, LogError::Unavailable(why) if why.contains("security.protocol")), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_a_wrong_certificate_and_a_wrong_password() {
    let Some(kafka) = tokio::task::spawn_blocking(Kafka::start_with_tls).await.unwrap() else { return };
    let app = TestApp::new("");
    let configure = |authority: &str, password: &str| {
        let authority = kafka.server.directory.path().join(authority).display().to_string();
        app.configure(&format!(
            "[[feed]]\nexchange = \"binance\"\nsymbols = [\"BTCUSDT\"]\nchannels = [\"trade\"]\n\n\
             [log]\nbackend = \"kafka\"\n[log.kafka]\nbrokers = \"127.0.0.1:{}\"\npassword = {password:?}\n\
             [log.kafka.client]\n\"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanism\" = \"SCRAM-SHA-256\"\n\
             \"sasl.username\" = \"keeper\"\n\"ssl.ca.location\" = {authority:?}\n",
            kafka.tls_port
        ));
    };
    configure("ca.pem", "geheim");
    let output = app.command(&["check", "--connect"]).await;
    assert!(output.code == Some(0) && output.out.contains("1 brokers"), "{output:?}");
    configure("stranger.pem", "geheim");
    let output = app.command(&["check", "--connect"]).await;
    assert!(output.code == Some(69) && output.out.contains("certificate verify failed"), "{output:?}");
    assert!(output.out.contains("ssl.ca.location"), "the output names the setting: {output:?}");
    configure("ca.pem", "guessed");
    let output = app.command(&["check", "--connect"]).await;
    assert!(output.code == Some(69) && output.out.contains("uthentication failed"), "{output:?}");
}
