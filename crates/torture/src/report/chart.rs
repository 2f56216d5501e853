//! Charts over the time of the run, all on the same axis, with the faults behind them.

use super::figures::{Column, Figures, Latency, Workload};
use super::html::{Page, grouped};
use crate::history::Nanos;
use crate::timeline::Mishap;

pub(super) const WIDTH: f64 = 900.0;
pub(super) const LEFT: f64 = 122.0;
pub(super) const RIGHT: f64 = 14.0;
const TOP: f64 = 8.0;
const AXIS: f64 = 26.0;
const HEIGHT: f64 = 170.0;
const SECOND: f64 = 1e9;

/// The plane of a chart.
pub(super) struct Frame {
    height: f64,
    span: f64,
}

impl Frame {
    /// What follows all that is drawn on it.
    pub(super) const CLOSE: &str = "</svg></div>";

    /// A plane for `span`, as high as what is drawn on it.
    pub(super) fn new(height: f64, span: Nanos) -> Self {
        Self { height, span: span.max(1) as f64 }
    }

    /// Where a moment is.
    pub(super) fn x(&self, moment: Nanos) -> f64 {
        LEFT + (moment as f64 / self.span).min(1.0) * (WIDTH - LEFT - RIGHT)
    }

    /// Begins to draw.
    pub(super) fn open(&self, page: &mut Page, title: &str) {
        let height = self.height + AXIS;
        page.add(format_args!(
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\">\
             <svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\"><title>{title}</title>"
        ));
    }

    /// Marks of time at the lower edge.
    pub(super) fn time_axis(&self, page: &mut Page) {
        let seconds = self.span / SECOND;
        let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0];
        let step = steps.into_iter().find(|step| seconds / step <= 10.0).unwrap_or(14_400.0);
        let mut mark = 0.0;
        while mark <= seconds {
            let x = self.x((mark * SECOND) as Nanos);
            let label = if seconds <= 180.0 {
                format!("{mark:.0}\u{202f}s")
            } else {
                format!("{:.0}:{:02.0}", (mark / 60.0).floor(), mark % 60.0)
            };
            page.add(format_args!(
                "<line class=\"tick\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{:.1}\"/>\
                 <text class=\"time\" x=\"{x:.1}\" y=\"{:.1}\">{label}</text>",
                self.height + 4.0,
                self.height + 19.0
            ));
            mark += step;
        }
    }

    fn faults(&self, page: &mut Page, mishaps: &[Mishap]) {
        page.text("<g class=\"behind\">");
        for mishap in mishaps {
            let (left, right) = (self.x(mishap.begun), self.x(mishap.ended));
            page.add(format_args!(
                "<rect x=\"{left:.1}\" y=\"0\" width=\"{:.1}\" height=\"{:.1}\"/>",
                (right - left).max(1.0),
                self.height
            ));
        }
        page.text("</g>");
    }
}

/// A level with its label at the left.
fn value_mark(page: &mut Page, y: f64, label: &str) {
    page.add(format_args!(
        "<line class=\"level\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
        WIDTH - RIGHT,
        LEFT - 8.0,
        y + 4.0
    ));
}

/// The section with all charts.
pub(super) fn section(page: &mut Page, figures: &Figures, mishaps: &[Mishap]) {
    page.text("<section aria-labelledby=\"charts\"><h2 id=\"charts\">What clients were told</h2>");
    if !mishaps.is_empty() {
        page.text("<p class=\"note\">Shaded: while a fault was going on.</p>");
    }
    let outcomes: [(&str, &str, Series); 3] = [
        ("carried out", "ok", |column| column.outcomes.ok),
        ("certainly not", "failed", |column| column.outcomes.failed),
        ("unknown", "unknown", |column| column.outcomes.unknown),
    ];
    stacked(page, figures, mishaps, "Calls per second by outcome", &outcomes);
    let workloads: [(&str, &str, Series); Workload::ALL.len()] = [
        (Workload::Registers.name(), "w0", |column| of(column, Workload::Registers)),
        (Workload::Seed.name(), "w1", |column| of(column, Workload::Seed)),
        (Workload::Lists.name(), "w2", |column| of(column, Workload::Lists)),
        (Workload::Counters.name(), "w3", |column| of(column, Workload::Counters)),
        (Workload::Bank.name(), "w4", |column| of(column, Workload::Bank)),
        (Workload::Locks.name(), "w5", |column| of(column, Workload::Locks)),
        (Workload::Other.name(), "w6", |column| of(column, Workload::Other)),
    ];
    stacked(page, figures, mishaps, "Calls per second that were carried out, by workload", &workloads);
    latency(page, figures, mishaps, "Latency of reads", |column| column.reads);
    latency(page, figures, mishaps, "Latency of writes", |column| column.writes);
    page.text("</section>");
}

type Series = fn(&Column) -> u64;

fn of(column: &Column, workload: Workload) -> u64 {
    column.by_workload.get(workload as usize).copied().unwrap_or(0)
}

fn legend(page: &mut Page, title: &str, series: &[(&str, &str)]) {
    page.add(format_args!("<h3>{title}</h3><ul class=\"legend\">"));
    for (name, class) in series {
        page.add(format_args!("<li><span class=\"swatch {class}\"></span>{name}</li>"));
    }
    page.text("</ul>");
}

/// A round number that is not less than `value`, to be divided by four.
fn ceiling(value: f64) -> f64 {
    let mut scale = 1.0;
    while scale * 100.0 < value {
        scale *= 10.0;
    }
    [4.0, 8.0, 12.0, 20.0, 40.0, 60.0, 80.0, 100.0]
        .into_iter()
        .map(|step| step * scale)
        .find(|step| *step >= value)
        .unwrap_or(value)
}

fn stacked(
    page: &mut Page,
    figures: &Figures,
    mishaps: &[Mishap],
    title: &str,
    series: &[(&str, &str, Series)],
) {
    let used: Vec<_> = series
        .iter()
        .filter(|(_, _, count)| figures.columns.iter().any(|column| count(column) > 0))
        .collect();
    let shown: Vec<_> = used.iter().map(|(name, class, _)| (*name, *class)).collect();
    legend(page, title, &shown);
    let seconds = figures.column as f64 / SECOND;
    let sum = |column: &Column| used.iter().map(|(_, _, count)| count(column)).sum::<u64>() as f64 / seconds;
    let most = ceiling(figures.columns.iter().map(sum).fold(4.0, f64::max));
    let frame = Frame::new(HEIGHT, figures.span);
    frame.open(page, title);
    frame.faults(page, mishaps);
    frame.time_axis(page);
    let y = |value: f64| HEIGHT - value / most * (HEIGHT - TOP);
    for quarter in 0..=4 {
        let value = most * f64::from(quarter) / 4.0;
        value_mark(page, y(value), &grouped(value as u64));
    }
    for (place, (_, class, count)) in used.iter().enumerate() {
        page.add(format_args!("<path class=\"area {class}\" d=\""));
        for (number, column) in figures.columns.iter().enumerate() {
            let height = count(column) as f64 / seconds;
            if height == 0.0 {
                continue;
            }
            let below =
                used.iter().take(place).map(|(_, _, count)| count(column)).sum::<u64>() as f64 / seconds;
            let left = frame.x(figures.column * number as u64);
            let right = frame.x(figures.column * (number as u64 + 1));
            let width = right - left - if right - left > 4.0 { 1.0 } else { 0.0 };
            page.add(format_args!(
                "M{left:.1} {:.1}h{width:.1}V{:.1}h-{width:.1}z",
                y(below),
                y(below + height)
            ));
        }
        page.text("\"/>");
    }
    page.text(Frame::CLOSE);
}

fn latency(
    page: &mut Page,
    figures: &Figures,
    mishaps: &[Mishap],
    title: &str,
    of: impl Fn(&Column) -> Option<Latency>,
) {
    legend(page, title, &[("half of them within", "p50"), ("99 of 100 within", "p99")]);
    let frame = Frame::new(HEIGHT, figures.span);
    frame.open(page, title);
    frame.faults(page, mishaps);
    frame.time_axis(page);
    // From 0.1 ms to 10 s, by powers of ten.
    let y = |nanos: Nanos| {
        let power = (nanos.max(1) as f64).log10().clamp(5.0, 10.0) - 5.0;
        HEIGHT - power / 5.0 * (HEIGHT - TOP)
    };
    let marks = [
        (100_000, "0.1\u{202f}ms"),
        (1_000_000, "1\u{202f}ms"),
        (10_000_000, "10\u{202f}ms"),
        (100_000_000, "100\u{202f}ms"),
        (1_000_000_000, "1\u{202f}s"),
        (10_000_000_000, "10\u{202f}s"),
    ];
    for (nanos, label) in marks {
        value_mark(page, y(nanos), label);
    }
    let high: fn(&Latency) -> Nanos = |latency| latency.high;
    let lines = [("p99", high), ("p50", |latency| latency.median)];
    for (class, value) in lines {
        page.add(format_args!("<path class=\"line {class}\" d=\""));
        let mut is_open = false;
        for (number, column) in figures.columns.iter().enumerate() {
            let Some(latency) = of(column) else {
                is_open = false;
                continue;
            };
            let (left, right) =
                (frame.x(figures.column * number as u64), frame.x(figures.column * (number as u64 + 1)));
            let command = if is_open { 'L' } else { 'M' };
            // A step, so that a column that stands alone is seen as well.
            page.add(format_args!("{command}{left:.1} {:.1}H{right:.1}", y(value(&latency))));
            is_open = true;
        }
        page.text("\"/>");
    }
    page.text(Frame::CLOSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let ends: Vec<_> = [1.0, 4.0, 9.0, 101.0, 950.0, 1_300.0].into_iter().map(ceiling).collect();
        assert_eq!(ends, [4.0, 4.0, 12.0, 120.0, 1_000.0, 2_000.0]);
    }

    #[test]
    fn moments_stay_within_the_plane() {
        let frame = Frame::new(10.0, 1_000);
        assert!((frame.x(0) - LEFT).abs() < 1e-9);
        assert!((frame.x(2_000) - (WIDTH - RIGHT)).abs() < 1e-9);
        let mut page = Page::default();
        Frame::new(10.0, 600_000_000_000).time_axis(&mut page);
        let drawn = page.into_string();
        assert!(drawn.contains(">10:00</text>") && drawn.contains(">1:00</text>"), "{drawn}");
    }
}
