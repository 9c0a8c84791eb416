//! Progress of long work, with rate and estimate; silent unless stderr is a terminal and people read the answer.

use indicatif::{ProgressBar, ProgressStyle};

use super::service::Format;

/// A bar up to `total`; `unit` names what is counted.
pub fn bar(format: Format, total: u64, unit: &str) -> ProgressBar {
    if format == Format::Json {
        return ProgressBar::hidden();
    }
    // indicatif draws on stderr, and not at all when that is no terminal.
    let bar = ProgressBar::new(total);
    let template = format!("{{msg:24}} [{{bar:30}}] {{human_pos}}/{{human_len}} {unit}, {{per_sec}}, {{eta}} left");
    let style = ProgressStyle::with_template(&template).expect("the template is fixed and right");
    bar.set_style(style.progress_chars("=> "));
    bar
}
