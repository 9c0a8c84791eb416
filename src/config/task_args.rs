//! Reads the `args` of the tasks gap-sweep, backfill, seal and command.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::exchange::catalog;
use crate::jobs::spec::{BackfillArgs, CommandArgs, RangeBound, SealArgs};
use crate::market::{Channel, Exchange, Stream, Symbol, Timestamp};

use super::problem::did_you_mean;
use super::reader::Table;

/// The arguments of the gap-sweep task: `share` and `appeal`. A window, a share and an appeal exclude each other.
pub fn gap_sweep(table: &Table<'_>, has_window: bool) -> (Option<i64>, bool) {
    let share = table.integer("share", 1, 1_000);
    let appeal = table.boolean("appeal").unwrap_or(false);
    let exclude = |key: &'static str, other: &str| {
        let help = "write one job for each".to_owned();
        let message = format!("`{key}` and {other} exclude each other");
        table.diagnostics().error(table.key_span(key), message, Some(help));
    };
    match (share, appeal, has_window) {
        (Some(_), true, _) => exclude("share", "`appeal`"),
        (Some(_), _, true) => exclude("share", "`window`"),
        (_, true, true) => exclude("appeal", "`window`"),
        _ => {}
    }
    (share, appeal)
}

/// The arguments of the backfill task: a range, or with `window` the window of each run.
pub fn backfill(table: &Table<'_>, has_window: bool) -> Option<BackfillArgs> {
    let diagnostics = table.diagnostics();
    let exchange = if table.has("exchange") { exchange(table) } else { Some(Exchange::named("binance")) };
    let channel = if table.has("channel") { channel(table, "backfilled") } else { Some(Channel::Trade) };
    let symbol = table.text("symbol").map(|(text, _)| Symbol::new(&text));
    if !table.has("symbol") {
        let help = "add `symbol = \"BTCUSDT\"`, a symbol that a feed records".to_owned();
        diagnostics.error(table.span(), format!("`{}` is missing", table.name("symbol")), Some(help));
    }
    let (from, to) = (place(table, "from", channel), place(table, "to", channel));
    for key in ["from", "to"].into_iter().filter(|key| has_window && table.has(key)) {
        let help = "remove it, or remove `window = true`: each run has one range".to_owned();
        diagnostics.error(table.key_span(key), format!("`{key}` and `window` exclude each other"), Some(help));
    }
    if !has_window && !table.has("from") {
        let help = "add `from`, a trade id or a time, or give the job `window = true`".to_owned();
        diagnostics.error(table.span(), format!("`{}` is missing", table.name("from")), Some(help));
    }
    Some(BackfillArgs { stream: Stream::new(exchange?, symbol?, channel?), from, to })
}

/// The longest grace of a day: after a week nothing arrives by itself.
const GRACE_MAX: Duration = Duration::from_secs(7 * 86_400);

/// The arguments of the seal task; each may be left out.
pub fn seal(table: &Table<'_>) -> SealArgs {
    let grace = table.duration("grace", Duration::ZERO, GRACE_MAX);
    SealArgs {
        exchange: exchange(table),
        symbol: table.text("symbol").map(|(text, _)| Symbol::new(&text)),
        channel: channel(table, "sealed"),
        grace: grace.unwrap_or(SealArgs::default().grace),
    }
}

/// A known exchange.
fn exchange(table: &Table<'_>) -> Option<Exchange> {
    let (text, span) = table.text("exchange")?;
    catalog::find(&text).or_else(|| {
        let known: Vec<&str> = catalog::names().map(Exchange::as_str).collect();
        let help = did_you_mean(&text, known.iter().copied()).unwrap_or_else(|| format!("known: {}", known.join(", ")));
        table.diagnostics().error(span, format!("unknown exchange `{text}`"), Some(help));
        None
    })
}

/// A channel that history holds.
fn channel(table: &Table<'_>, done: &str) -> Option<Channel> {
    let (text, span) = table.text("channel")?;
    text.parse().ok().filter(|channel: &Channel| channel.step().is_some()).or_else(|| {
        let held = Channel::ALL.iter().filter(|channel| channel.step().is_some());
        let known: Vec<&str> = held.map(|channel| channel.as_str()).collect();
        let help = did_you_mean(&text, known.iter().copied()).unwrap_or_else(|| format!("known: {}", known.join(", ")));
        table.diagnostics().error(span, format!("channel `{text}` cannot be {done}"), Some(help));
        None
    })
}

/// A trade id, or a time as text or as a TOML date.
fn place(table: &Table<'_>, key: &'static str, channel: Option<Channel>) -> Option<RangeBound> {
    let value = table.value(key)?;
    let place = match value.get_ref() {
        DeValue::Integer(number) if channel.is_some_and(Channel::has_trades) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().filter(|id| *id >= 0).map(RangeBound::Id)
        }
        DeValue::String(text) => Timestamp::parse(text).map(RangeBound::At),
        DeValue::Datetime(time) => Timestamp::parse(&time.to_string()).map(RangeBound::At),
        _ => None,
    };
    if place.is_none() {
        let help = match channel {
            Some(channel) if channel.has_trades() => {
                format!("write `{key} = \"2026-01-01T00:00:00Z\"`, or a trade's id")
            }
            _ => format!("write `{key} = \"2026-01-01T00:00:00Z\"`; klines have no ids"),
        };
        table.diagnostics().error(
            value.span(),
            format!("`{}` is not a position in a stream", table.name(key)),
            Some(help),
        );
    }
    place
}

/// The arguments of the command task.
pub fn command(table: &Table<'_>) -> Option<CommandArgs> {
    let diagnostics = table.diagnostics();
    if !table.has("argv") {
        let help = "add `argv = [\"/usr/bin/true\"]`: a program and its arguments, without a shell".to_owned();
        diagnostics.error(table.span(), format!("`{}` is missing", table.name("argv")), Some(help));
    }
    let argv = match table.value("argv").map(|value| (value.get_ref(), value.span())) {
        Some((DeValue::String(line), span)) => {
            let words: Vec<String> = line.split_whitespace().map(|word| format!("{word:?}")).collect();
            let help = format!("no shell splits the text: write `argv = [{}]`", words.join(", "));
            diagnostics.error(
                span,
                format!("`{}` is a list: the program and each argument", table.name("argv")),
                Some(help),
            );
            None
        }
        _ => table.texts("argv"),
    };
    for (at, (text, span)) in argv.iter().flatten().enumerate() {
        if (at == 0 && text.trim().is_empty()) || text.contains('\0') {
            let help = "the first is the program: a path, or a name that PATH finds".to_owned();
            diagnostics.error(span.clone(), "this cannot be an argument of a program", Some(help));
        }
    }
    let mut environment = Vec::new();
    if let Some(variables) = table.table("environment") {
        for (name, span, value) in variables.entries() {
            environment.extend(variable(&variables, name, span, value));
        }
    }
    let working_directory = table.text("working_directory").and_then(|(text, span)| {
        let path = PathBuf::from(&text);
        if path.is_absolute() {
            return Some(path);
        }
        let help = "write the absolute path: the service's own directory may differ".to_owned();
        diagnostics.error(span, format!("`{text}` is not an absolute path"), Some(help));
        None
    });
    let argv = argv?.into_iter().map(|(text, _)| text).collect();
    Some(CommandArgs { argv, environment, working_directory })
}

fn variable(
    table: &Table<'_>,
    name: String,
    span: Range<usize>,
    value: &Spanned<DeValue<'_>>,
) -> Option<(String, String)> {
    let is_name = |name: &str| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    if !is_name(&name) {
        let help = "letters, digits and `_` only".to_owned();
        table.diagnostics().error(span, format!("`{name}` is not a variable name"), Some(help));
        return None;
    }
    let (text, _) = table.text_of(&name, value)?;
    Some((name, text))
}
