//! Prometheus' text format, version 0.0.4.
//!
//! Twenty lines of our own: most numbers are read off other rooms when somebody scrapes, which a registry of metric
//! objects is not made for, and `promtool check metrics` reads this format only.

use std::fmt::Write;

use crate::histogram::Histogram;

/// The text being written.
#[derive(Default)]
pub struct MetricsText(pub String);

impl MetricsText {
    /// What a metric is.
    pub fn head(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("writing to a String cannot fail");
    }

    /// One of its values.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> = labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.0, "{name}{labels} {value}").expect("writing to a String cannot fail");
    }

    /// A metric with one value.
    pub fn one(&mut self, name: &str, kind: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.head(name, kind, help);
        self.sample(name, labels, value);
    }

    /// A metric with a value for each of a label's texts.
    pub fn each<'a>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        label: &str,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) {
        self.head(name, kind, help);
        for (text, value) in values {
            self.sample(name, &[(label, text)], value);
        }
    }

    /// A histogram.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for (bound, count) in histogram.cumulative() {
            self.sample(&bucket, &[("le", &bound.to_string())], count as f64);
        }
        self.sample(&bucket, &[("le", "+Inf")], histogram.count() as f64);
        self.sample(&format!("{name}_sum"), &[], histogram.sum());
        self.sample(&format!("{name}_count"), &[], histogram.count() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_buckets_add_up() {
        let mut text = MetricsText::default();
        text.one("a", "gauge", "An a.", &[("x", "say \"\\\"\n")], 1.5);
        let mut histogram = Histogram::new(&[0.5, 1.0]);
        [0.25, 0.75, 3.0].into_iter().for_each(|value| histogram.observe(value));
        text.histogram("h_seconds", "An h.", &histogram);
        let expected = "# HELP a An a.\n# TYPE a gauge\na{x=\"say \\\"\\\\\\\"\\n\"} 1.5\n\
            # HELP h_seconds An h.\n# TYPE h_seconds histogram\nh_seconds_bucket{le=\"0.5\"} 1\n\
            h_seconds_bucket{le=\"1\"} 2\nh_seconds_bucket{le=\"+Inf\"} 3\nh_seconds_sum 4\nh_seconds_count 3\n";
        assert_eq!(text.0, expected);
    }
}
