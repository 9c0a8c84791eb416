//! Charts of the last hour: frame rate, lag, missing rows. Each chart also states its values as text.

use std::fmt::Write;

use maud::{Markup, html};

use crate::market::Timestamp;

use super::super::time_series::Sample;
use super::facts::Facts;
use super::format::{grouped, span};

/// Width of a chart in its own units, and the most points of its line.
const WIDTH: i64 = 240;
/// Height of a chart in its own units.
const HEIGHT: f64 = 48.0;
/// The longest time drawn.
const WINDOW_MAX_US: i64 = 3_600_000_000;
/// The shortest time drawn: a line of two samples over the whole width would look like an hour.
const WINDOW_MIN_US: i64 = 300_000_000;

/// A chart: its title, the value it reads from a sample, and how it prints that value.
struct Chart {
    title: &'static str,
    read: fn(&Sample) -> Option<f64>,
    print: fn(f64) -> String,
    /// The least height of the scale: noise below it stays low.
    scale_min: f64,
}

const CHARTS: [Chart; 3] = [
    Chart { title: "Frames a second", read: |sample| Some(sample.frames), print: rate, scale_min: 1.0 },
    Chart { title: "Lag from frame to row", read: |sample| sample.lag, print: span, scale_min: 1.0 },
    Chart {
        title: "Rows missing in open gaps",
        read: |sample| Some(sample.missing as f64),
        print: grouped,
        scale_min: 10.0,
    },
];

fn rate(frames: f64) -> String {
    if frames < 10.0 { format!("{frames:.1}") } else { grouped(frames) }
}

/// All charts.
pub fn charts(facts: &Facts) -> Markup {
    let (Some(first), Some(last)) = (facts.samples.first(), facts.samples.last()) else {
        return html! { p class="dim" { "no sample yet" } };
    };
    let window = last.at.since(first.at).clamp(WINDOW_MIN_US, WINDOW_MAX_US);
    html! {
        div class="sparks" { @for chart in &CHARTS { (draw(chart, &facts.samples, last.at, window)) } }
        p class="dim note" { "the last " (span(window as f64 / 1e6)) ", now at the right" }
    }
}

fn draw(chart: &Chart, samples: &[Sample], end: Timestamp, window: i64) -> Markup {
    let Chart { title, read, print, scale_min } = chart;
    let values: Vec<f64> = samples.iter().filter_map(read).collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let now = samples.last().and_then(read).map_or("not known".to_owned(), print);
    let (least_text, most_text) =
        if values.is_empty() { (now.clone(), now.clone()) } else { (print(least), print(most)) };
    let scale = most.max(*scale_min);
    html! {
        figure {
            figcaption {
                span class="dim" { (title) } " " b { (now) } " "
                span class="dim" { "least " (least_text) " \u{b7} most " (most_text) }
            }
            svg role="img" aria-label=(format!("{title}: now {now}, least {least_text}, most {most_text}"))
                viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" {
                @for segment in segments(&points(samples, *read, end, window)) { (draw_segment(&segment, scale)) }
            }
        }
    }
}

fn draw_segment(segment: &[(i64, f64)], scale: f64) -> Markup {
    let mut path = String::new();
    for (x, value) in segment {
        let y = HEIGHT - 1.0 - value / scale * (HEIGHT - 3.0);
        let to = if path.is_empty() { "M" } else { "L" };
        write!(path, "{to}{x} {y:.1}").expect("writing to a String cannot fail");
    }
    // A lone sample is a short line, not nothing.
    if segment.len() == 1 {
        path.push_str("h-2");
    }
    let end = |point: Option<&(i64, f64)>| point.map_or(0, |(x, _)| *x);
    let (first, last) = (end(segment.first()), end(segment.last()));
    html! {
        path class="area" d=(format!("{path}L{last} {HEIGHT}L{first} {HEIGHT}Z")) {}
        path class="line" d=(path) {}
    }
}

/// The highest value at each x: a short peak must stay visible.
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

/// Points that belong together: there is no line where the service took no sample.
fn segments(points: &[(i64, f64)]) -> Vec<Vec<(i64, f64)>> {
    /// Steps of x without a sample that a line still crosses; the shortest window has four steps a sample.
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
    fn there_is_no_line_without_samples() {
        let samples = [sample(0, 1.0), sample(5, 1.0), sample(200, 1.0), sample(205, 1.0)];
        let points = points(&samples, |sample| Some(sample.frames), samples[3].at, WINDOW_MIN_US);
        assert_eq!(segments(&points).iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    }
}
