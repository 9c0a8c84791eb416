//! Progress of long work, with rate and estimate; silent unless stderr is a terminal and people read the answer.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressState, ProgressStyle};

use super::output::Format;

/// A bar up to `total`; `unit` names what is counted.
pub fn bar(format: Format, total: u64, unit: &str) -> ProgressBar {
    if format == Format::Json {
        return ProgressBar::hidden();
    }
    // indicatif draws on stderr, and not at all when that is no terminal.
    let bar = ProgressBar::new(total);
    bar.set_style(style(unit).progress_chars("=> "));
    bar
}

fn style(unit: &str) -> ProgressStyle {
    let template = format!("{{msg:24}} [{{bar:30}}] {{human_pos}}/{{human_len}} {unit}, {{rate}}, {{left}}");
    let style = ProgressStyle::with_template(&template).expect("the template is fixed and right");
    style
        .with_key("rate", |state: &ProgressState, text: &mut dyn Write| write_text(text, &rate(state.per_sec())))
        .with_key("left", |state: &ProgressState, text: &mut dyn Write| {
            let is_known = state.pos() > 0;
            write_text(text, &time_left(is_known.then(|| state.eta())));
        })
}

fn write_text(text: &mut dyn Write, words: &str) {
    text.write_str(words).expect("a line in memory takes all that is written");
}

/// `12,345/s`; below ten a second with a digit behind the point.
fn rate(per_second: f64) -> String {
    match per_second {
        slow if slow < 10.0 => format!("{slow:.1}/s"),
        fast => format!("{}/s", HumanCount(fast as u64)),
    }
}

/// Nothing is known before something is done.
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
    fn an_estimate_is_made_of_what_is_done() {
        assert_eq!(time_left(None), "estimating");
        assert_eq!(time_left(Some(Duration::from_secs(80))), "80 seconds left");
        assert_eq!(time_left(Some(Duration::from_secs(7_200))), "2 hours left");
    }

    #[test]
    fn a_bar_is_drawn_for_people_only() {
        // No test has a terminal: what is hidden either way is told apart by its style's length.
        assert_eq!((bar(Format::Json, 5, "rows").length(), bar(Format::Human, 5, "rows").length()), (None, Some(5)));
    }
}
