//! Reads `tapekeeper.toml` into a [`Config`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use crate::admin::AdminOptions;
use crate::{cache, history, log};

use super::Config;
use super::feeds::{feeds, url};
use super::reader::{Diagnostics, Table, parse};
use super::units::format_duration;

/// The longest `instance`: as long as a host name's label may be.
const INSTANCE_MAX: usize = 63;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
/// Ten years, longer than a log is kept: catches a wrong unit.
const RETENTION_MAX: Duration = Duration::from_secs(86_400 * 3_650);

/// Reads a configuration; adds its problems to `diagnostics`.
pub fn read(text: &str, diagnostics: &Diagnostics, default_data_dir: PathBuf) -> Config {
    let document = parse(text, diagnostics);
    let root = Table::root(&document, diagnostics);
    let mut config = Config { data_dir: default_data_dir, ..Config::default() };
    if let Some((path, span)) = root.text("data_dir") {
        if path.is_empty() {
            let help = "name a directory, or remove the key for the default".to_owned();
            diagnostics.error(span, "`data_dir` must not be empty", Some(help));
        } else {
            config.data_dir = PathBuf::from(path);
        }
    }
    if let Some((instance, span)) = root.text("instance") {
        let is_plain = instance.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if is_plain && instance.len() <= INSTANCE_MAX {
            config.instance = instance;
        } else {
            let help = "it is part of cache keys and of rows: write a plain name such as \"north-1\"".to_owned();
            let message =
                format!("`instance` may hold letters, digits, `-`, `_` and `.` only, at most {INSTANCE_MAX} of them");
            diagnostics.error(span, message, Some(help));
        }
    }
    config.feeds = feeds(&root);
    if let Some(table) = root.table("log") {
        config.log = log_options(table);
    }
    if let Some(table) = root.table("history") {
        config.history = history_options(table);
    }
    if let Some(table) = root.table("cache") {
        config.cache = cache_options(table);
    }
    if let Some(table) = root.table("admin") {
        config.admin = admin_options(table);
    }
    if let Some(table) = root.table("backfill") {
        if let Some(share) = table.integer("weight_share", 1, 100) {
            config.backfill.weight_share = share as u32;
        }
        if let Some(time) = table.duration("confirm_after", Duration::from_secs(1), Duration::from_secs(30 * 86_400)) {
            config.backfill.confirm_after = time;
        }
        table.finish();
    }
    if let Some(table) = root.table("seal") {
        config.seal.to = place_of_sealed_days(&table);
        table.finish();
    }
    root.finish();
    config
}

fn place_of_sealed_days(table: &Table<'_>) -> Option<PathBuf> {
    let (to, span) = table.text("to")?;
    let help = "write the path of a directory: `to = \"/var/lib/tapekeeper/sealed\"`".to_owned();
    if to.is_empty() {
        table.diagnostics().error(span, "`seal.to` must not be empty", Some(help));
    } else if to.contains("://") {
        table.diagnostics().error(span, format!("`{to}` is not a directory"), Some(help));
    } else {
        return Some(PathBuf::from(to));
    }
    None
}

fn log_options(table: Table<'_>) -> log::Options {
    let mut options = log::Options::default();
    let backends = [("embedded", log::Backend::Embedded), ("kafka", log::Backend::Kafka)];
    set(&mut options.backend, table.choice("backend", &backends));
    let suggested = format!("the default: `retention = \"{}\"`", format_duration(options.retention));
    set(&mut options.retention, table.age("retention", RETENTION_MAX, &suggested));
    let bytes = table.size("retention_bytes", 1 << 20, options.retention_bytes);
    set(&mut options.retention_bytes, bytes);
    if let Some(table) = table.table("kafka") {
        let kafka = &mut options.kafka;
        set(&mut kafka.brokers, brokers(&table));
        set(&mut kafka.topic, topic(&table));
        set(&mut kafka.partitions, table.integer("partitions", 1, 10_000).map(|n| n as i32));
        set(&mut kafka.group_id, non_empty(&table, "group_id"));
        // The broker's default limits: group.min.session.timeout.ms is 6 s, the maximum 30 min.
        set(&mut kafka.session_timeout, table.duration("session_timeout", 6 * SECOND, 1_800 * SECOND));
        set(&mut kafka.batch_records, table.integer("batch_records", 1, 1_000_000).map(|n| n as usize));
        kafka.password = password(&table);
        if let Some(client) = table.table("client") {
            kafka.client = settings(&client);
        }
        table.finish();
    }
    table.finish();
    options
}

/// Settings of librdkafka: any key with text, a number or a boolean.
fn settings(table: &Table<'_>) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for (name, span, value) in table.entries() {
        if name.ends_with("password") {
            warn_of_password(table.diagnostics(), span.clone(), "kafka-password", "TAPEKEEPER_KAFKA_PASSWORD");
        }
        let text = match value.get_ref() {
            toml::de::DeValue::String(text) => text.to_string(),
            toml::de::DeValue::Integer(number) => number.as_str().to_owned(),
            toml::de::DeValue::Boolean(boolean) => boolean.to_string(),
            _ => {
                // TOML reads an unquoted `security.protocol` as a table in a table.
                let inner = value.get_ref().as_table().and_then(|table| table.keys().next());
                let whole = inner.map_or(name.clone(), |inner| format!("{name}.{}", inner.get_ref()));
                let help = format!("quote the whole name: `\"{whole}\" = \"...\"`");
                table.diagnostics().error(
                    span,
                    format!("`{}` must be text, a number or a boolean", table.name(&name)),
                    Some(help),
                );
                continue;
            }
        };
        settings.insert(name, text);
    }
    settings
}

fn history_options(table: Table<'_>) -> history::Options {
    let mut options = history::Options::default();
    let backends = [("embedded", history::Backend::Embedded), ("clickhouse", history::Backend::Clickhouse)];
    set(&mut options.backend, table.choice("backend", &backends));
    if let Some(table) = table.table("clickhouse") {
        let clickhouse = &mut options.clickhouse;
        set(&mut clickhouse.url, url(&table, "url", &["http", "https"]));
        set(&mut clickhouse.database, identifier(&table, "database"));
        set(&mut clickhouse.user, non_empty(&table, "user"));
        clickhouse.password = password(&table);
        set(&mut clickhouse.batch_rows, table.integer("batch_rows", 1, 10_000_000).map(|n| n as usize));
        let bytes = table.size("batch_bytes", 1 << 10, clickhouse.batch_bytes as u64).map(|n| n as usize);
        set(&mut clickhouse.batch_bytes, bytes);
        set(&mut clickhouse.batch_time, table.duration("batch_time", Duration::from_millis(1), DAY));
        table.finish();
    }
    table.finish();
    options
}

fn cache_options(table: Table<'_>) -> cache::Options {
    let mut options = cache::Options::default();
    let backends = [("embedded", cache::Backend::Embedded), ("redis", cache::Backend::Redis)];
    set(&mut options.backend, table.choice("backend", &backends));
    if let Some(table) = table.table("redis") {
        redis_servers(&table, &mut options.redis);
        options.redis.password = password(&table);
        table.finish();
    }
    table.finish();
    options
}

fn admin_options(table: Table<'_>) -> AdminOptions {
    let mut options = AdminOptions::default();
    if let Some((text, span)) = table.text("listen") {
        match text.parse::<SocketAddr>() {
            Ok(listen) => options.listen = listen,
            Err(_not_an_address) => {
                let help = "write address and port: \"127.0.0.1:8081\"".to_owned();
                table.diagnostics().error(span, format!("`{text}` is not an address to listen on"), Some(help));
            }
        }
    }
    options.socket = socket(&table);
    if let Some((token, span)) = table.text("token") {
        warn_of_password(table.diagnostics(), span, "admin-token", "TAPEKEEPER_ADMIN_TOKEN");
        options.token = Some(token);
    }
    table.finish();
    options
}

/// Linux limits a unix socket's path to 108 bytes, including the final 0.
const SOCKET_BYTES_MAX: usize = 107;

/// An absolute path, so that the service and a command in a shell use the same socket.
fn socket(table: &Table<'_>) -> Option<PathBuf> {
    let (text, span) = table.text("socket")?;
    if !text.starts_with('/') || text.len() > SOCKET_BYTES_MAX {
        let message = format!("`{text}` is not a valid path for a socket");
        let help =
            format!("write an absolute path of at most {SOCKET_BYTES_MAX} bytes: \"/run/tapekeeper/admin.sock\"");
        table.diagnostics().error(span, message, Some(help));
        return None;
    }
    Some(PathBuf::from(text))
}

fn password(table: &Table<'_>) -> Option<String> {
    let (password, span) = table.text("password")?;
    let section = table.name("").trim_end_matches('.').rsplit('.').next().unwrap_or_default().to_owned();
    let variable = format!("TAPEKEEPER_{}_PASSWORD", section.to_uppercase());
    warn_of_password(table.diagnostics(), span, &format!("{section}-password"), &variable);
    Some(password)
}

fn warn_of_password(diagnostics: &Diagnostics, span: Range<usize>, credential: &str, variable: &str) {
    let help = format!("keep it in the systemd credential `{credential}` or in {variable}");
    diagnostics.warning(span, "the file contains a password", Some(help));
}

/// `host:port`, several separated by commas.
fn brokers(table: &Table<'_>) -> Option<String> {
    let (text, span) = table.text("brokers")?;
    for broker in text.split(',').map(str::trim) {
        let port = broker.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(1..))) {
            let help = "write host:port, several separated by commas: \"kafka1:9092,kafka2:9092\"".to_owned();
            table.diagnostics().error(span, format!("`{broker}` is not a broker's address"), Some(help));
            return None;
        }
    }
    Some(text)
}

/// Kafka's rule for topic names: at most 249 letters, digits, `.`, `_` and `-`; not `.` and not `..`.
fn topic(table: &Table<'_>) -> Option<String> {
    let (text, span) = table.text("topic")?;
    let legal = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if text.is_empty() || text.len() > 249 || !legal || text == "." || text == ".." {
        let message = format!("`{}` may hold letters, digits, `.`, `_` and `-` only, 249 at most", table.name("topic"));
        table.diagnostics().error(span, message, Some("write a name such as \"tapekeeper.frames\"".to_owned()));
        return None;
    }
    Some(text)
}

/// One server, or the nodes of a cluster.
fn redis_servers(table: &Table<'_>, redis: &mut cache::RedisOptions) {
    let url = table.text("url");
    let nodes = if table.has("nodes") { table.texts("nodes").unwrap_or_default() } else { Vec::new() };
    if url.is_some() && table.has("nodes") {
        let message = format!("`{}` and `{}` exclude each other", table.name("nodes"), table.name("url"));
        let help = "keep `nodes` for a cluster, `url` for one server".to_owned();
        table.diagnostics().error(table.key_span("nodes"), message, Some(help));
        return;
    }
    for (url, span) in url.iter().chain(&nodes) {
        if url.contains('@') && is_redis_url(url) {
            warn_of_password(table.diagnostics(), span.clone(), "redis-password", "TAPEKEEPER_REDIS_PASSWORD");
        }
    }
    if let Some((url, span)) = url {
        let help = "write redis://host:port, rediss://host:port (TLS) or redis+unix:///path";
        if is_redis_url(&url) {
            redis.url = url;
        } else {
            table.diagnostics().error(span, format!("`{url}` is not a Redis URL"), Some(help.to_owned()));
        }
    }
    for (node, span) in nodes {
        let help = "write redis://host:port or rediss://host:port (TLS); a cluster has one database";
        if is_node_url(&node) {
            redis.nodes.push(node);
        } else {
            table.diagnostics().error(
                span,
                format!("`{node}` is not the URL of a cluster node"),
                Some(help.to_owned()),
            );
        }
    }
}

/// A node has no unix socket, which would reach only one of them, and only database 0 exists in a cluster.
fn is_node_url(text: &str) -> bool {
    let database = text.parse::<reqwest::Url>().map(|url| url.path().trim_matches('/').to_owned());
    is_redis_url(text) && !text.starts_with("redis+unix") && matches!(database.as_deref(), Ok("" | "0"))
}

fn is_redis_url(text: &str) -> bool {
    let Ok(url) = text.parse::<reqwest::Url>() else { return false };
    match url.scheme() {
        "redis" | "rediss" => url.has_host(),
        "redis+unix" => !url.path().is_empty(),
        _ => false,
    }
}

fn non_empty(table: &Table<'_>, key: &'static str) -> Option<String> {
    let (text, span) = table.text(key)?;
    if text.trim().is_empty() {
        let help = "remove the key for the default".to_owned();
        table.diagnostics().error(span, format!("`{}` must not be empty", table.name(key)), Some(help));
        return None;
    }
    Some(text)
}

fn identifier(table: &Table<'_>, key: &'static str) -> Option<String> {
    let (text, span) = table.text(key)?;
    let good = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !good {
        let message = format!("`{}` may hold letters, digits and `_` only, and begins with a letter", table.name(key));
        table.diagnostics().error(span, message, Some("write a plain name such as \"tapekeeper\"".to_owned()));
        return None;
    }
    Some(text)
}

pub(super) fn missing(table: &Table<'_>, key: &str, example: &str) {
    let help = format!("add `{key} = {example}`");
    table.diagnostics().missing(table.span(), format!("`{}` is missing", table.name(key)), help);
}

fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}
