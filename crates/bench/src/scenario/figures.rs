//! Named figures, in the order in which they were found.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::process::Watched;

/// What a scenario found out. Names carry their unit and are stable.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<(String, Value)>);

impl Figures {
    pub(crate) fn new(scenario: &str) -> Self {
        let mut figures = Self::default();
        figures.add("scenario", scenario);
        figures
    }

    pub(crate) fn add(&mut self, name: &str, value: impl Into<Value>) {
        self.0.push((name.to_owned(), value.into()));
    }

    /// A time, in milliseconds.
    pub(crate) fn add_ms(&mut self, name: &str, time: Duration) {
        self.add(name, (time.as_secs_f64() * 1e6).round() / 1e3);
    }

    /// The median, least and greatest of several times, in milliseconds; nothing of none.
    pub(crate) fn add_times(&mut self, name: &str, mut times: Vec<Duration>) {
        times.sort_unstable();
        let middle = times.len() / 2;
        let (Some(least), Some(median), Some(greatest)) = (times.first(), times.get(middle), times.last())
        else {
            return;
        };
        self.add_ms(&format!("{name}_ms_median"), *median);
        self.add_ms(&format!("{name}_ms_min"), *least);
        self.add_ms(&format!("{name}_ms_max"), *greatest);
    }

    /// CPU time that the processes used per second, in cores.
    pub(crate) fn add_cores(&mut self, name: &str, processes: &[Watched], time: Duration) {
        if !processes.is_empty() && !time.is_zero() {
            let used: Duration = processes.iter().map(Watched::cpu).sum();
            self.add(name, (used.as_secs_f64() / time.as_secs_f64() * 1e3).round() / 1e3);
        }
    }

    pub(crate) fn json(&self) -> Value {
        Value::Object(self.0.iter().cloned().collect::<Map<_, _>>())
    }

    /// One figure a line.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let mut out = String::new();
        for (name, value) in &self.0 {
            match value.as_str() {
                Some(text) => writeln!(out, "{name:width$}  {text}")?,
                None => writeln!(out, "{name:width$}  {value}")?,
            }
        }
        Ok(out)
    }
}
