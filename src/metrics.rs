//! Every metric's name, once: what Prometheus and OpenMetrics scrapers read.
//!
//! The figures are gathered by whoever owns them and handed in as one value, so
//! that the hot paths keep plain counters and know nothing of exposition.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// A counter or gauge with its help text.
enum Figure {
    Counter(u64),
    Counters(Family<Labels, Counter>),
    Gauge(i64),
    Seconds(f64),
}

/// Names and values that tell figures of one name apart.
pub type Labels = Vec<(&'static str, String)>;

/// All figures of a node at one moment, in the order in which they are written.
#[derive(Default)]
pub struct Figures {
    entries: Vec<(&'static str, &'static str, Figure)>,
}

impl Figures {
    /// Adds a figure that only goes up; `_total` is appended to its name.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.entries.push((name, help, Figure::Counter(value)));
    }

    /// Adds figures that only go up and share a name; `_total` is appended to it.
    pub fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create_owned(&labels).inc_by(value);
        }
        self.entries.push((name, help, Figure::Counters(family)));
    }

    /// Adds a figure that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: impl TryInto<i64>) {
        let value = value.try_into().unwrap_or(i64::MAX);
        self.entries.push((name, help, Figure::Gauge(value)));
    }

    /// Adds a sum of time that only goes up, in seconds.
    pub fn seconds(&mut self, name: &'static str, help: &'static str, micros: u64) {
        self.entries.push((name, help, Figure::Seconds(micros as f64 / 1e6)));
    }

    /// The OpenMetrics text, each name with the prefix `kvorum_`.
    ///
    /// # Errors
    /// Never for a `String`; the encoder's signature has one.
    pub fn encode(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("kvorum");
        for (name, help, figure) in self.entries {
            match figure {
                Figure::Counter(value) => registry.register(name, help, ConstCounter::new(value)),
                Figure::Counters(family) => registry.register(name, help, family),
                Figure::Gauge(value) => registry.register(name, help, ConstGauge::new(value)),
                Figure::Seconds(value) => {
                    registry.register_with_unit(name, help, Unit::Seconds, ConstCounter::new(value));
                }
            }
        }
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_become_open_metrics_text() {
        let mut figures = Figures::default();
        figures.counter("writes", "Writes asked for", 7);
        let calls = |method: &str, value| (vec![("method", method.to_owned())], value);
        figures.counters("calls", "Calls that ended", [calls("/a/B", 4), calls("/a/C", 5)]);
        figures.gauge("revision", "Revision of the data", 3_i64);
        figures.seconds("log_sync", "Time in syncs of the log", 1_500_000);
        let text = figures.encode().unwrap();
        assert!(text.contains("kvorum_writes_total 7\n"), "{text}");
        assert!(text.contains("kvorum_calls_total{method=\"/a/B\"} 4\n"), "{text}");
        assert!(text.contains("kvorum_calls_total{method=\"/a/C\"} 5\n"), "{text}");
        assert!(text.contains("# TYPE kvorum_revision gauge\n"), "{text}");
        assert!(text.contains("kvorum_log_sync_seconds_total 1.5\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
