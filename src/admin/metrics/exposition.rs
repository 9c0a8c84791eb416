//! The metrics of one scrape, encoded by `prometheus-client` in Prometheus' text format, version 0.0.4.
//!
//! Other modules hold the numbers. Each scrape reads them into a new [`Metrics`]: nothing is registered in advance, and
//! the labels of a removed feed disappear.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    CounterValueEncoder, DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, GaugeValueEncoder, NoLabelSet,
    prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::histogram::Histogram;

pub use prometheus_text::CONTENT_TYPE;

/// Largest magnitude at which an f64 holds every whole number.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// The metrics of one scrape, in the order in which they are written; histograms come last.
#[derive(Debug, Default)]
pub struct Metrics {
    families: Vec<Family>,
    histograms: Vec<(&'static str, &'static str, Histogram)>,
}

/// All samples of one counter or gauge.
#[derive(Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: Number,
}

/// A value that is written without a fraction when it has none: `3`, not `3.0`.
#[derive(Clone, Copy, Debug)]
struct Number(f64);

impl Metrics {
    /// Starts a counter; its name ends with `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> &mut Family {
        self.start(name, help, MetricType::Counter)
    }

    /// Starts a gauge.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> &mut Family {
        self.start(name, help, MetricType::Gauge)
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, name: &'static str, help: &'static str, histogram: &Histogram) {
        self.histograms.push((name, help, histogram.clone()));
    }

    /// The text of all of them.
    pub fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("writing to a String cannot fail");
        text
    }

    fn start(&mut self, name: &'static str, help: &'static str, kind: MetricType) -> &mut Family {
        self.families.push(Family { name, help, kind, samples: Vec::new() });
        self.families.last_mut().expect("a family was just added")
    }
}

impl Family {
    /// Adds a sample without labels.
    pub fn set(&mut self, value: f64) {
        self.add(&[], value);
    }

    /// Adds a sample.
    pub fn add(&mut self, labels: &[(&'static str, &str)], value: f64) {
        let labels = labels.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
        self.samples.push(Sample { labels, value: Number(value) });
    }

    /// Adds a sample for each value of one label.
    pub fn add_each<'a>(&mut self, label: &'static str, values: impl IntoIterator<Item = (&'a str, f64)>) {
        for (text, value) in values {
            self.add(&[(label, text)], value);
        }
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, kind, samples } in &self.families {
            let is_counter = *kind == MetricType::Counter;
            // The encoder appends `_total` to a counter's name.
            let name = if is_counter { name.strip_suffix("_total").unwrap_or(name) } else { name };
            let mut metric = encoder.encode_descriptor(name, help, None, *kind)?;
            for Sample { labels, value } in samples {
                let mut metric = metric.encode_family(labels)?;
                if is_counter {
                    metric.encode_counter::<NoLabelSet, _, f64>(value, None)?;
                } else {
                    metric.encode_gauge(value)?;
                }
            }
        }
        for (name, help, histogram) in &self.histograms {
            let buckets: Vec<(f64, u64)> = histogram.buckets().collect();
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            metric.encode_histogram::<NoLabelSet>(histogram.sum(), histogram.count(), &buckets, None)?;
        }
        Ok(())
    }
}

impl Number {
    fn whole(self) -> Option<i64> {
        (self.0.fract() == 0.0 && self.0.abs() <= WHOLE_MAX).then_some(self.0 as i64)
    }
}

impl EncodeCounterValue for Number {
    fn encode(&self, encoder: &mut CounterValueEncoder<'_>) -> fmt::Result {
        match self.whole().and_then(|whole| u64::try_from(whole).ok()) {
            Some(whole) => EncodeCounterValue::encode(&whole, encoder),
            None => EncodeCounterValue::encode(&self.0, encoder),
        }
    }
}

impl EncodeGaugeValue for Number {
    fn encode(&self, encoder: &mut GaugeValueEncoder<'_>) -> fmt::Result {
        match self.whole() {
            Some(whole) => EncodeGaugeValue::encode(&whole, encoder),
            None => EncodeGaugeValue::encode(&self.0, encoder),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_whole_numbers_have_no_fraction_and_buckets_add_up() {
        let mut metrics = Metrics::default();
        metrics.gauge("a", "An a.").add(&[("x", "say \"\\\"\n"), ("y", "")], 1.5);
        metrics.counter("b_total", "A b.").set(1e15);
        metrics.gauge("c", "No c.");
        metrics.gauge("d", "A d.").add_each("x", [("minus", -3.0), ("large", 1e300)]);
        let mut histogram = Histogram::new(&[0.5, 1.0, 2.5]);
        [0.25, 0.75, 3.0].into_iter().for_each(|value| histogram.observe(value));
        metrics.histogram("h_seconds", "An h.", &histogram);
        let expected = "# HELP a An a.\n# TYPE a gauge\na{x=\"say \\\"\\\\\\\"\\n\",y=\"\"} 1.5\n\
            # HELP b_total A b.\n# TYPE b_total counter\nb_total 1000000000000000\n\
            # HELP c No c.\n# TYPE c gauge\n\
            # HELP d A d.\n# TYPE d gauge\nd{x=\"minus\"} -3\nd{x=\"large\"} 1e300\n\
            # HELP h_seconds An h.\n# TYPE h_seconds histogram\nh_seconds_bucket{le=\"0.5\"} 1\n\
            h_seconds_bucket{le=\"1\"} 2\nh_seconds_bucket{le=\"2.5\"} 2\nh_seconds_bucket{le=\"+Inf\"} 3\n\
            h_seconds_sum 4.0\nh_seconds_count 3\n";
        assert_eq!(metrics.text(), expected);
    }
}
