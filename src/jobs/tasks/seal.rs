//! Seals the days that ended in the run's window, and those whose gaps changed since they were sealed. Without a window
//! every finished day that is not sealed.

use anyhow::Context as _;
use serde_json::json;

use super::{Context, Report};
use crate::market::Stream;
use crate::seal::{DayReader, Event, Sealer, Selection};

pub(super) async fn run(context: &Context) -> anyhow::Result<Report> {
    let Context { services, args, run, cancel } = context;
    let place =
        services.sealed_days.clone().context("`[seal] to` names no place for sealed days: set it and restart")?;
    let mut streams: Vec<Stream> = services.streams.borrow().clone();
    let args = &args.seal;
    streams.retain(|stream| {
        stream.channel.step().is_some()
            && args.exchange.is_none_or(|exchange| stream.exchange == exchange)
            && args.symbol.as_ref().is_none_or(|symbol| stream.symbol == *symbol)
            && args.channel.is_none_or(|channel| stream.channel == channel)
    });
    let selection = run.window.map_or(Selection::All, |(from, to)| Selection::Window(from, to));
    let recorder = services.backfill.writer.recorder().to_string();
    let reader = DayReader { history: services.history.clone(), clock: services.clock.clone(), recorder };
    let sealer = Sealer { reader, place, grace: args.grace };
    let sealed = sealer.run(&streams, selection, cancel, &|event| {
        if let Event::Done(done) = event {
            let (revision, rows) = (done.manifest.revision, done.manifest.rows);
            tracing::debug!("{} {} r{revision}: {rows} rows", done.stream, done.day);
        }
    });
    let summary = sealed.await.map_err(|failure| failure.error)?;
    let text = format!(
        "{} days sealed with {} rows, {} unchanged, {} not complete",
        summary.sealed, summary.rows, summary.unchanged, summary.incomplete
    );
    let data = json!({
        "sealed": summary.sealed, "rows": summary.rows, "unchanged": summary.unchanged,
        "incomplete": summary.incomplete, "listed": summary.listed, "failed": summary.failed,
    });
    let failure = (!summary.failed.is_empty()).then(|| format!("cannot seal {}", summary.failed.join("; ")));
    Ok(Report { failure, ..Report::new(text, &data)? })
}
