//! What went wrong, drawn: one row for each client, a bar for each call.
//!
//! The time between two moments is not to scale: only their order tells whether an answer
//! could be right, and so every bar is as long as its text. Exact times are in the table.

use std::collections::{BTreeMap, BTreeSet};

use super::format::{asked, told, way_name};
use super::html::{Page, duration, escape, grouped};
use super::{Problem, Verdict};
use crate::history::{History, Nanos, Operation, Outcome};

/// The most problems that are drawn; all others are listed.
const DRAWN: usize = 25;
/// The most calls of a problem that are drawn.
const CALLS: usize = 40;
/// The width of a character of the labels.
const CHARACTER: f64 = 6.9;
/// The least distance between two moments.
const STEP: f64 = 14.0;
const ROW: f64 = 46.0;
const LEFT: f64 = 84.0;

/// The section of all problems.
pub(super) fn section(page: &mut Page, history: &History, verdict: &Verdict) {
    page.text("<section aria-labelledby=\"problems\"><h2 id=\"problems\">What went wrong</h2>");
    for (number, problem) in verdict.problems.iter().enumerate() {
        if number == DRAWN {
            page.add(format_args!(
                "<details><summary>{} more</summary><ul class=\"more\">",
                grouped((verdict.problems.len() - DRAWN) as u64)
            ));
        }
        if number < DRAWN {
            article(page, history, number + 1, problem);
        } else {
            page.add(format_args!("<li><b>{}</b> {}</li>", escape(&problem.check), escape(&problem.text)));
        }
    }
    if verdict.problems.len() > DRAWN {
        page.text("</ul></details>");
    }
    page.text("</section>");
}

fn article(page: &mut Page, history: &History, number: usize, problem: &Problem) {
    page.add(format_args!(
        "<article class=\"problem\"><h3><span class=\"nr\">{number}</span>{}</h3><p>{}</p>",
        escape(&problem.check),
        escape(&problem.text)
    ));
    if let Some(key) = &problem.key {
        page.add(format_args!("<p class=\"key\">Key <code>{}</code></p>", escape(key)));
    }
    let mut calls: Vec<_> = problem
        .operations
        .iter()
        .filter_map(|place| Some((*place, history.operations.get(*place)?)))
        .collect();
    calls.sort_by_key(|(_, operation)| (operation.begun, operation.ended));
    let left_out = calls.len().saturating_sub(CALLS);
    calls.truncate(CALLS);
    if !calls.is_empty() {
        let only = problem.key.as_deref();
        // A key that none of them names tells nothing of what they did.
        let only =
            only.filter(|only| calls.iter().any(|(_, call)| !asked(&call.call, Some(only)).is_empty()));
        draw(page, number, &calls, only);
        if left_out > 0 {
            page.add(format_args!("<p class=\"note\">{left_out} later calls are not drawn.</p>"));
        }
        table(page, &calls);
    }
    page.text("</article>");
}

/// A call with its place in the picture.
struct Bar<'a> {
    operation: &'a Operation,
    number: usize,
    asked: String,
    told: String,
    begin: usize,
    /// `None` if nobody knows whether it has ended.
    end: Option<usize>,
}

impl Bar<'_> {
    fn width(&self) -> f64 {
        let longest = (self.asked.chars().count() + 4 + self.route()).max(self.told.chars().count() + 2);
        longest as f64 * CHARACTER + 14.0
    }

    /// How many characters it takes to say who asked whom.
    fn route(&self) -> usize {
        format!("c{}→n{} ", self.operation.client, self.operation.node).chars().count()
    }

    fn class(&self) -> &'static str {
        match self.operation.outcome {
            Outcome::Done { .. } | Outcome::SeedWritten | Outcome::SeedFound { .. } => "ok",
            Outcome::Failed { .. } => "failed",
            Outcome::Unknown { .. } => "unknown",
        }
    }
}

fn bars<'a>(calls: &[(usize, &'a Operation)], only: Option<&str>) -> (Vec<Bar<'a>>, usize) {
    let mut moments = BTreeSet::<Nanos>::new();
    for (_, operation) in calls {
        moments.insert(operation.begun);
        if !matches!(operation.outcome, Outcome::Unknown { .. }) {
            moments.insert(operation.ended);
        }
    }
    let places: BTreeMap<_, _> = moments.iter().enumerate().map(|(place, moment)| (*moment, place)).collect();
    let place = |moment: Nanos| places.get(&moment).copied().unwrap_or(0);
    let bar = |(number, (_, operation)): (usize, &(usize, &'a Operation))| Bar {
        operation,
        number: number + 1,
        asked: cut(asked(&operation.call, only)),
        told: cut(told(operation, only)),
        begin: place(operation.begun),
        end: (!matches!(operation.outcome, Outcome::Unknown { .. })).then(|| place(operation.ended)),
    };
    (calls.iter().enumerate().map(bar).collect(), moments.len())
}

fn cut(text: String) -> String {
    const LONGEST: usize = 64;
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// Where each moment stands, so that they keep their order and every bar has room.
fn positions(bars: &[Bar<'_>], moments: usize) -> Vec<f64> {
    let mut positions = vec![LEFT; moments];
    let mut before = LEFT - STEP;
    for moment in 0..moments {
        let mut position = before + STEP;
        for bar in bars.iter().filter(|bar| bar.end == Some(moment)) {
            let begin = positions.get(bar.begin).copied().unwrap_or(LEFT);
            position = position.max(begin + bar.width());
        }
        if let Some(place) = positions.get_mut(moment) {
            *place = position;
        }
        before = position;
    }
    positions
}

fn draw(page: &mut Page, number: usize, calls: &[(usize, &Operation)], only: Option<&str>) {
    let (bars, moments) = bars(calls, only);
    let positions = positions(&bars, moments);
    let at = |place: usize| positions.get(place).copied().unwrap_or(LEFT);
    let mut right = positions.last().copied().unwrap_or(LEFT) + STEP;
    for bar in bars.iter().filter(|bar| bar.end.is_none()) {
        right = right.max(at(bar.begin) + bar.width() + STEP);
    }
    let clients: BTreeSet<_> = bars.iter().map(|bar| bar.operation.client).collect();
    let rows: BTreeMap<_, _> = clients.iter().enumerate().map(|(row, client)| (*client, row)).collect();
    let (width, height) = (right + 8.0, rows.len() as f64 * ROW + 10.0);
    page.add(format_args!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Drawing of problem {number}\">\
         <svg class=\"drawing\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\
         <title>The calls of problem {number} in their order, one row for each client</title>"
    ));
    for (client, row) in &rows {
        let y = *row as f64 * ROW + 5.0;
        page.add(format_args!(
            "<line class=\"guide\" x1=\"{:.1}\" x2=\"{right:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\"/>\
             <text class=\"who\" x=\"0\" y=\"{2:.1}\">client {client}</text>",
            LEFT - 8.0,
            y + ROW / 2.0 - 4.0,
            y + ROW / 2.0
        ));
    }
    for bar in &bars {
        let y = rows.get(&bar.operation.client).copied().unwrap_or(0) as f64 * ROW + 5.0;
        draw_bar(page, bar, at(bar.begin), bar.end.map_or(right, at), y);
    }
    page.text("</svg></div>");
}

fn draw_bar(page: &mut Page, bar: &Bar<'_>, left: f64, right: f64, y: f64) {
    let operation = bar.operation;
    page.add(format_args!(
        "<g class=\"bar {}\"><title>{}</title><rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"4\"/>",
        bar.class(),
        escape(&format!(
            "client {} asked node {} over {}: {} — {}",
            operation.client,
            operation.node,
            way_name(operation.way),
            asked(&operation.call, None),
            told(operation, None)
        )),
        (right - left).max(2.0),
        ROW - 8.0
    ));
    page.add(format_args!(
        "<text x=\"{0:.1}\" y=\"{1:.1}\"><tspan class=\"nr\">{2}</tspan> <tspan class=\"route\">c{6}→n{7}</tspan> {3}</text>\
         <text class=\"told\" x=\"{0:.1}\" y=\"{4:.1}\">→ {5}</text></g>",
        left + 7.0,
        y + 16.0,
        bar.number,
        escape(&bar.asked),
        y + 31.0,
        escape(&bar.told),
        operation.client,
        operation.node
    ));
}

fn table(page: &mut Page, calls: &[(usize, &Operation)]) {
    page.text(
        "<details><summary>Exact times and whole calls</summary><div class=\"scroll\" tabindex=\"0\" role=\"region\" \
         aria-label=\"Calls of the problem\"><table><thead><tr><th scope=\"col\">no.</th><th scope=\"col\">in history</th>\
         <th scope=\"col\">client</th><th scope=\"col\">node</th><th scope=\"col\">way</th><th scope=\"col\">began</th>\
         <th scope=\"col\">took</th><th scope=\"col\">asked</th><th scope=\"col\">told</th></tr></thead><tbody>",
    );
    for (number, (place, operation)) in calls.iter().enumerate() {
        page.add(format_args!(
            "<tr><td>{}</td><td>{place}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"num\">{:.6}\u{202f}s</td>\
             <td class=\"num\">{}</td><td class=\"code\">{}</td><td class=\"code\">{}</td></tr>",
            number + 1,
            operation.client,
            operation.node,
            way_name(operation.way),
            operation.begun as f64 / 1e9,
            duration(operation.ended.saturating_sub(operation.begun)),
            escape(&asked(&operation.call, None)),
            escape(&told(operation, None))
        ));
    }
    page.text("</tbody></table></div></details>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Call, Way};

    fn call(client: u32, begun: Nanos, ended: Nanos, outcome: Outcome) -> Operation {
        let call = Call::SeedWrite { key: "k".to_owned(), value: Some(format!("v{begun}")) };
        Operation { client, node: 1, way: Way::Seed, begun, ended, call, outcome }
    }

    #[test]
    fn moments_keep_their_order_and_texts_have_room() {
        let operations = [
            call(1, 10, 40, Outcome::SeedWritten),
            call(2, 20, 30, Outcome::SeedWritten),
            call(3, 25, 90, Outcome::Unknown { reason: "no answer".to_owned() }),
            call(1, 50, 51, Outcome::SeedFound { value: "v".repeat(200) }),
        ];
        let calls: Vec<_> = operations.iter().enumerate().collect();
        let (bars, moments) = bars(&calls, None);
        assert_eq!(moments, 7, "when an unknown call was given up is no moment");
        let positions = positions(&bars, moments);
        assert!(positions.windows(2).all(|pair| pair[0] + STEP <= pair[1] + 1e-9), "{positions:?}");
        for bar in bars.iter().filter(|bar| bar.end.is_some()) {
            assert!(positions[bar.end.unwrap()] - positions[bar.begin] >= bar.width() - 1e-9);
        }
        assert_eq!((bars[2].end, bars[2].class()), (None, "unknown"));
    }
}
