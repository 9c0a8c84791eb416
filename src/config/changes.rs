//! Compares two configurations key by key: a reload applies some changes, others need a restart.

use super::Config;

/// The full names of the keys that differ.
pub fn between(old: &Config, new: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    let mut differ = |key: &str, differs: bool| {
        if differs {
            keys.push(key.to_owned());
        }
    };
    differ("data_dir", old.data_dir != new.data_dir);
    differ("instance", old.instance != new.instance);
    differ("log.backend", old.log.backend != new.log.backend);
    differ("log.retention", old.log.retention != new.log.retention);
    differ("log.retention_bytes", old.log.retention_bytes != new.log.retention_bytes);
    let (a, b) = (&old.log.kafka, &new.log.kafka);
    differ("log.kafka.brokers", a.brokers != b.brokers);
    differ("log.kafka.topic", a.topic != b.topic);
    differ("log.kafka.partitions", a.partitions != b.partitions);
    differ("log.kafka.group_id", a.group_id != b.group_id);
    differ("log.kafka.session_timeout", a.session_timeout != b.session_timeout);
    differ("log.kafka.batch_records", a.batch_records != b.batch_records);
    differ("log.kafka.client", a.client != b.client);
    differ("log.kafka.password", a.password != b.password);
    differ("history.backend", old.history.backend != new.history.backend);
    let (a, b) = (&old.history.clickhouse, &new.history.clickhouse);
    differ("history.clickhouse.url", a.url != b.url);
    differ("history.clickhouse.database", a.database != b.database);
    differ("history.clickhouse.user", a.user != b.user);
    differ("history.clickhouse.password", a.password != b.password);
    differ("history.clickhouse.batch_rows", a.batch_rows != b.batch_rows);
    differ("history.clickhouse.batch_bytes", a.batch_bytes != b.batch_bytes);
    differ("history.clickhouse.batch_time", a.batch_time != b.batch_time);
    differ("cache.backend", old.cache.backend != new.cache.backend);
    differ("cache.redis.url", old.cache.redis.url != new.cache.redis.url);
    differ("cache.redis.nodes", old.cache.redis.nodes != new.cache.redis.nodes);
    differ("cache.redis.password", old.cache.redis.password != new.cache.redis.password);
    differ("admin.listen", old.admin.listen != new.admin.listen);
    differ("admin.token", old.admin.token != new.admin.token);
    differ("admin.socket", old.admin.socket != new.admin.socket);
    differ("backfill.weight_share", old.backfill.weight_share != new.backfill.weight_share);
    differ("backfill.confirm_after", old.backfill.confirm_after != new.backfill.confirm_after);
    differ("seal.to", old.seal.to != new.seal.to);
    // A key that the list above lacks must not pass as "nothing changed".
    let others = Config { feeds: old.feeds.clone(), ..new.clone() };
    if keys.is_empty() && *old != others {
        keys.push("configuration".to_owned());
    }
    if old.feeds != new.feeds {
        keys.push("feed".to_owned());
    }
    // The REST client and its budget are made once, from the first feed that names a base.
    let rest_url = |config: &Config| config.feeds.iter().find_map(|feed| feed.rest_url.clone());
    if !old.feeds.is_empty() && rest_url(old) != rest_url(new) {
        keys.push("rest_url".to_owned());
    }
    keys
}
