//! The last hour as lines: rate, lag, what is missing. What a line shows is said in words beside it.

use crate::market::Timestamp;

use super::super::time_series::Sample;
use super::html::{grouped, put, span};
use super::render::Facts;

/// Width of a drawing in its own units, which is the most points of a line.
const WIDTH: i64 = 240;
/// Height of a drawing in its own units.
const HEIGHT: f64 = 48.0;
/// The longest time drawn.
const WINDOW_MAX_US: i64 = 3_600_000_000;
/// The shortest: a line of two samples over the whole width would look like an hour.
const WINDOW_MIN_US: i64 = 300_000_000;

/// A line: what it is called, what it reads off a sample, and how that is said.
struct Chart {
    title: &'static str,
    read: fn(&Sample) -> Option<f64>,
    say: fn(f64) -> String,
    /// The least height of the scale: noise below it stays low.
    scale_min: f64,
}

const CHARTS: [Chart; 3] = [
    Chart { title: "Frames a second", read: |sample| Some(sample.frames), say: rate, scale_min: 1.0 },
    Chart { title: "Lag from frame to row", read: |sample| sample.lag, say: span, scale_min: 1.0 },
    Chart {
        title: "Rows missing in open gaps",
        read: |sample| Some(sample.missing as f64),
        say: grouped,
        scale_min: 10.0,
    },
];

fn rate(frames: f64) -> String {
    if frames < 10.0 { format!("{frames:.1}") } else { grouped(frames) }
}

/// Draws all of them.
pub fn charts(out: &mut String, facts: &Facts) {
    let (Some(first), Some(last)) = (facts.samples.first(), facts.samples.last()) else {
        out.push_str("<p class=\"dim\">the first sample is on its way</p>");
        return;
    };
    let window = last.at.since(first.at).clamp(WINDOW_MIN_US, WINDOW_MAX_US);
    out.push_str("<div class=\"sparks\">");
    for chart in &CHARTS {
        draw(out, chart, &facts.samples, last.at, window);
    }
    let words = span(window as f64 / 1e6);
    put(out, format_args!("</div><p class=\"dim note\">the last {words}, now at the right</p>"));
}

fn draw(out: &mut String, chart: &Chart, samples: &[Sample], end: Timestamp, window: i64) {
    let Chart { title, read, say, scale_min } = chart;
    let values: Vec<f64> = samples.iter().filter_map(read).collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let now = samples.last().and_then(read).map_or("not known".to_owned(), say);
    let (least_said, most_said) = if values.is_empty() { (now.clone(), now.clone()) } else { (say(least), say(most)) };
    put(
        out,
        format_args!(
            "<figure><figcaption><span class=\"dim\">{title}</span> <b>{now}</b> <span class=\"dim\">least {least_said} \
             &middot; most {most_said}</span></figcaption>\
             <svg role=\"img\" aria-label=\"{title}: now {now}, least {least_said}, most {most_said}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\">"
        ),
    );
    let scale = most.max(*scale_min);
    for segment in segments(&points(samples, *read, end, window)) {
        let (mut path, mut x_last) = (String::new(), 0);
        for (x, value) in &segment {
            let y = HEIGHT - 1.0 - value / scale * (HEIGHT - 3.0);
            let to = if path.is_empty() { "M" } else { "L" };
            put(&mut path, format_args!("{to}{x} {y:.1}"));
            x_last = *x;
        }
        // A sample that stands alone is a short line, not nothing.
        if segment.len() == 1 {
            path.push_str("h-2");
        }
        let x_first = segment.first().map_or(0, |(x, _)| *x);
        put(out, format_args!("<path class=\"area\" d=\"{path}L{x_last} {HEIGHT}L{x_first} {HEIGHT}Z\"/>"));
        put(out, format_args!("<path class=\"line\" d=\"{path}\"/>"));
    }
    out.push_str("</svg></figure>");
}

/// The highest value of each place on the line: a short peak is what one looks for.
fn points(samples: &[Sample], read: fn(&Sample) -> Option<f64>, end: Timestamp, window: i64) -> Vec<(i64, f64)> {
    let mut points: Vec<(i64, f64)> = Vec::new();
    for sample in samples {
        let Some(value) = read(sample) else { continue };
        let x = WIDTH - (end.since(sample.at) * WIDTH).div_euclid(window);
        match points.last_mut() {
            Some((last, most)) if *last == x => *most = most.max(value),
            _ if (0..=WIDTH).contains(&x) => points.push((x, value)),
            _ => {}
        }
    }
    points
}

/// Points that belong together: where the service did not sample, there is no line.
fn segments(points: &[(i64, f64)]) -> Vec<Vec<(i64, f64)>> {
    /// Places without a sample that are drawn over; the shortest window has four places a sample.
    const MISSING_MAX: i64 = 12;
    let mut segments: Vec<Vec<(i64, f64)>> = Vec::new();
    for point in points {
        match segments.last_mut() {
            Some(segment) if segment.last().is_some_and(|(x, _)| point.0 - x <= MISSING_MAX) => segment.push(*point),
            _ => segments.push(vec![*point]),
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: i64, frames: f64) -> Sample {
        Sample { at: Timestamp(seconds * 1_000_000), frames, lag: None, missing: 0, free: None, kept: None }
    }

    #[test]
    fn a_peak_is_not_averaged_away() {
        let samples: Vec<Sample> = (0..720).map(|at| sample(at * 5, if at == 300 { 99.0 } else { 1.0 })).collect();
        let end = samples[719].at;
        let points = points(&samples, |sample| Some(sample.frames), end, 3_595_000_000);
        assert!(points.len() <= WIDTH as usize + 1, "{}", points.len());
        assert_eq!(points.iter().filter(|(_, value)| *value == 99.0).count(), 1);
        assert_eq!(points.last(), Some(&(WIDTH, 1.0)));
    }

    #[test]
    fn where_nobody_sampled_there_is_no_line() {
        let samples = [sample(0, 1.0), sample(5, 1.0), sample(200, 1.0), sample(205, 1.0)];
        let points = points(&samples, |sample| Some(sample.frames), samples[3].at, WINDOW_MIN_US);
        assert_eq!(segments(&points).iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    }
}
