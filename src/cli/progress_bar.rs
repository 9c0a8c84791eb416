//! Progress bars with rate and estimate, drawn only when stderr is a terminal and the output is for people.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressState, ProgressStyle};

use super::output::Format;

/// A bar up to `total`, counted in `unit`; hidden with `--format json`.
pub fn bar(format: Format, total: u64, unit: &str) -> ProgressBar {
    if format == Format::Json {
        return ProgressBar::hidden();
    }
    // indicatif draws on stderr, and only when that is a terminal.
    let bar = ProgressBar::new(total);
    bar.set_style(style(unit).progress_chars("=> "));
    bar
}

/// A count of `unit` whose end nobody knows; hidden with `--format json`.
pub fn counter(format: Format, unit: &str) -> ProgressBar {
    if format == Format::Json {
        return ProgressBar::hidden();
    }
    let template = format!("{{human_pos}} {unit}, {{per_sec}}: {{msg}}");
    let style = ProgressStyle::with_template(&template).expect("the template is a valid constant");
    ProgressBar::no_length().with_style(style)
}

fn style(unit: &str) -> ProgressStyle {
    let template = format!("{{msg:24}} [{{bar:30}}] {{human_pos}}/{{human_len}} {unit}, {{rate}}, {{left}}");
    let style = ProgressStyle::with_template(&template).expect("the template is a valid constant");
    style
        .with_key("rate", |state: &ProgressState, text: &mut dyn Write| write_text(text, &rate(state.per_sec())))
        .with_key("left", |state: &ProgressState, text: &mut dyn Write| {
            let is_known = state.pos() > 0;
            write_text(text, &time_left(is_known.then(|| state.eta())));
        })
}

fn write_text(text: &mut dyn Write, words: &str) {
    text.write_str(words).expect("a String accepts every write");
}

/// `12,345/s`; below ten per second with one decimal.
fn rate(per_second: f64) -> String {
    match per_second {
        slow if slow < 10.0 => format!("{slow:.1}/s"),
        fast => format!("{}/s", HumanCount(fast as u64)),
    }
}

/// `2 hours left`, or `estimating` while there is no estimate.
fn time_left(estimate: Option<Duration>) -> String {
    estimate.map_or_else(|| "estimating".to_owned(), |left| format!("{} left", HumanDuration(left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_whole_number_unless_it_is_small() {
        let output = [0.0, 0.25, 9.94, 10.0, 230_007.47].map(rate);
        assert_eq!(output, ["0.0/s", "0.2/s", "9.9/s", "10/s", "230,007/s"]);
    }

    #[test]
    fn a_bar_without_progress_has_no_estimate() {
        assert_eq!(time_left(None), "estimating");
        assert_eq!(time_left(Some(Duration::from_secs(80))), "80 seconds left");
        assert_eq!(time_left(Some(Duration::from_secs(7_200))), "2 hours left");
    }

    #[test]
    fn a_bar_is_drawn_for_people_only() {
        // Tests have no terminal, so both bars are hidden: only their lengths differ.
        assert_eq!((bar(Format::Json, 5, "rows").length(), bar(Format::Human, 5, "rows").length()), (None, Some(5)));
    }
}
