//! The parts of the page that are text and tables.

use std::collections::BTreeMap;

use super::figures::{Figures, Recovery, Tally, Workload, spread};
use super::format::way_name;
use super::html::{Page, duration, escape, grouped};
use super::lanes::KINDS;
use super::{Run, Verdict};
use crate::history::{History, Nanos, WatchNote, Way};
use crate::timeline::{Kind, Mishap};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// The most reasons that are listed.
const REASONS: usize = 25;

/// The head of the page with the verdict.
pub(super) fn head(page: &mut Page, run: &Run, verdict: &Verdict) {
    let problems = verdict.problems.len();
    let (class, word) = match problems {
        0 => ("held", "No promise was broken".to_owned()),
        1 => ("broken", "1 promise was broken".to_owned()),
        _ => ("broken", format!("{} promises were broken", grouped(problems as u64))),
    };
    page.add(format_args!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\"><title>{word} · Kvorum torture, seed {}</title><style>{STYLE}</style></head>\
         <body><main><header class=\"{class}\"><p class=\"over\">Kvorum torture run</p><h1>{word}</h1>",
        run.seed
    ));
    if let Some(mutant) = &run.mutant {
        page.add(format_args!(
            "<p class=\"mutant\">The nodes had a mistake built in on purpose: <b>{}</b>. A run like this should find it.</p>",
            escape(mutant)
        ));
    }
    page.text("<dl class=\"facts\">");
    let facts = [
        ("Commit", run.commit.clone()),
        ("Date", run.date.clone()),
        ("Nodes", run.nodes.to_string()),
        ("Seed", run.seed.to_string()),
        ("Duration", duration(run.duration)),
    ];
    for (name, value) in facts {
        page.add(format_args!("<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value)));
    }
    page.add(format_args!(
        "</dl><div class=\"repeat\"><span id=\"repeat\">Repeat it</span><code aria-labelledby=\"repeat\">{}</code>\
         <button type=\"button\" hidden>Copy</button></div></header>",
        escape(&run.command)
    ));
}

/// The numbers that matter most.
pub(super) fn summary(page: &mut Page, run: &Run, figures: &Figures, mishaps: &[Mishap], verdict: &Verdict) {
    let total = figures.total;
    let seconds = run.duration as f64 / 1e9;
    let rate = if seconds > 0.0 { total.all() as f64 / seconds } else { 0.0 };
    let faults: u64 = mishaps.iter().map(|mishap| mishap.count).sum();
    let checked: u64 = verdict.checks.iter().map(|check| check.checked).sum();
    let tiles = [
        ("Calls", grouped(total.all()), format!("{rate:.0} per second")),
        ("Carried out", grouped(total.ok), share(total.ok, total.all())),
        ("Certainly not", grouped(total.failed), share(total.failed, total.all())),
        ("Unknown", grouped(total.unknown), share(total.unknown, total.all())),
        ("Faults", grouped(faults), format!("on {} occasions", grouped(mishaps.len() as u64))),
        (
            "Longest without a write",
            figures.longest_gap.map_or_else(|| "–".to_owned(), duration),
            "between two acknowledged ones".to_owned(),
        ),
        ("Locks held", grouped(figures.holdings as u64), "times".to_owned()),
        ("Checked", grouped(checked), format!("by {} checkers", verdict.checks.len())),
    ];
    page.text("<section aria-label=\"Summary\"><dl class=\"tiles\">");
    for (name, value, more) in tiles {
        page.add(format_args!("<div><dt>{name}</dt><dd>{value}</dd><dd class=\"sub\">{more}</dd></div>"));
    }
    page.text("</dl></section>");
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "–".to_owned() } else { format!("{:.2}\u{202f}%", part as f64 * 100.0 / whole as f64) }
}

fn table(page: &mut Page, label: &str, heads: &[&str]) {
    page.add(format_args!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{label}\"><table><thead><tr>"
    ));
    for head in heads {
        page.add(format_args!("<th scope=\"col\">{head}</th>"));
    }
    page.text("</tr></thead><tbody>");
}

fn end_table(page: &mut Page) {
    page.text("</tbody></table></div>");
}

/// How long it took to recover, by kind of fault.
pub(super) fn recovery(page: &mut Page, figures: &Figures) {
    if figures.recoveries.is_empty() {
        return;
    }
    page.text(
        "<section aria-labelledby=\"recovery\"><h2 id=\"recovery\">How fast it recovered</h2>\
         <p class=\"note\">The time from the fault until a client was told that a write was carried out which \
         began after it. The bar is the largest since the beginning.</p>",
    );
    let heads =
        ["fault", "times", "since it began: median", "largest", "", "since it ended: median", "largest"];
    table(page, "Time to recover by fault", &heads);
    let mut groups = BTreeMap::<(Kind, &str), Vec<&Recovery>>::new();
    for recovery in &figures.recoveries {
        groups.entry((recovery.kind, &recovery.fault)).or_default().push(recovery);
    }
    let worst =
        figures.recoveries.iter().filter_map(|recovery| recovery.from_begin).max().unwrap_or(0).max(1);
    for (kind, name) in KINDS {
        for ((_, fault), group) in groups.iter().filter(|((of, _), _)| *of == kind) {
            let begin = spread(group.iter().filter_map(|recovery| recovery.from_begin));
            let end = spread(group.iter().filter_map(|recovery| recovery.from_end));
            let text = |time: Option<Nanos>| time.map_or_else(|| "never".to_owned(), duration);
            let part = begin.map_or(0.0, |spread| spread.largest as f64 / worst as f64);
            page.add(format_args!(
                "<tr><td>{} <span class=\"kind\">{name}</span></td><td class=\"num\">{}</td><td class=\"num\">{}</td>\
                 <td class=\"num\">{}</td><td class=\"gauge\"><svg viewBox=\"0 0 120 10\" aria-hidden=\"true\">\
                 <rect width=\"{:.1}\" height=\"10\" rx=\"2\"/></svg></td><td class=\"num\">{}</td><td class=\"num\">{}</td></tr>",
                escape(fault),
                group.len(),
                text(begin.map(|spread| spread.median)),
                text(begin.map(|spread| spread.largest)),
                (part * 120.0).max(1.5),
                text(end.map(|spread| spread.median)),
                text(end.map(|spread| spread.largest))
            ));
        }
    }
    end_table(page);
    page.text("</section>");
}

/// Calls by workload and way.
pub(super) fn calls(page: &mut Page, figures: &Figures) {
    page.text("<section aria-labelledby=\"calls\"><h2 id=\"calls\">Calls by workload and way</h2>");
    table(
        page,
        "Calls by workload and way",
        &["workload", "way", "calls", "carried out", "certainly not", "unknown"],
    );
    let mut line = |name: &str, way: &str, tally: Tally| {
        page.add(format_args!("<tr><td>{name}</td><td>{way}</td>"));
        for number in [tally.all(), tally.ok, tally.failed, tally.unknown] {
            page.add(format_args!("<td class=\"num\">{}</td>", grouped(number)));
        }
        page.text("</tr>");
    };
    for workload in Workload::ALL {
        for way in [Way::Http, Way::Grpc, Way::Seed] {
            if let Some(tally) = figures.by_workload.get(&(workload, way)) {
                line(workload.name(), way_name(way), *tally);
            }
        }
    }
    line("<b>all</b>", "", figures.total);
    end_table(page);
    page.text("</section>");
}

/// Why calls were not carried out.
pub(super) fn reasons(page: &mut Page, figures: &Figures) {
    page.text("<section aria-labelledby=\"reasons\"><h2 id=\"reasons\">Why calls did not succeed</h2>");
    let lists =
        [("Unknown", "unknown", &figures.unknown), ("Certainly not carried out", "failed", &figures.failed)];
    for (title, class, reasons) in lists {
        page.add(format_args!("<h3><span class=\"swatch {class}\"></span>{title}</h3>"));
        if reasons.is_empty() {
            page.text("<p class=\"note\">None.</p>");
            continue;
        }
        table(page, title, &["times", "what the client was told"]);
        for (reason, count) in reasons.iter().take(REASONS) {
            page.add(format_args!(
                "<tr><td class=\"num\">{}</td><td class=\"code\">{}</td></tr>",
                grouped(*count),
                escape(reason)
            ));
        }
        end_table(page);
        if reasons.len() > REASONS {
            let others: u64 = reasons.iter().skip(REASONS).map(|(_, count)| count).sum();
            page.add(format_args!(
                "<p class=\"note\">{} others, {} times in all.</p>",
                reasons.len() - REASONS,
                grouped(others)
            ));
        }
    }
    page.text("</section>");
}

/// What watchers saw.
pub(super) fn watchers(page: &mut Page, history: &History) {
    if history.watches.is_empty() {
        return;
    }
    let mut groups = BTreeMap::<(bool, Way), [u64; 6]>::new();
    for watch in &history.watches {
        let whole = watch.prefix.is_empty()
            && matches!(watch.notes.first(), Some(WatchNote::Opened { from_revision: 2, .. }));
        let [count, opened, messages, events, progress, compacted] =
            groups.entry((!whole, watch.way)).or_default();
        *count += 1;
        for note in &watch.notes {
            match note {
                WatchNote::Opened { .. } => *opened += 1,
                WatchNote::Events { events: told, .. } => {
                    *messages += 1;
                    *events += told.len() as u64;
                }
                WatchNote::Progress { .. } => *progress += 1,
                WatchNote::Compacted { .. } => *compacted += 1,
                WatchNote::Lost { .. } => {}
            }
        }
    }
    page.text("<section aria-labelledby=\"watchers\"><h2 id=\"watchers\">Watchers</h2>");
    let heads = ["watchers", "way", "how many", "opened", "messages", "events", "progress", "compacted"];
    table(page, "Watchers", &heads);
    for ((partial, way), numbers) in groups {
        let name = if partial { "of parts, for a while" } else { "of everything" };
        page.add(format_args!("<tr><td>{name}</td><td>{}</td>", way_name(way)));
        for number in numbers {
            page.add(format_args!("<td class=\"num\">{}</td>", grouped(number)));
        }
        page.text("</tr>");
    }
    end_table(page);
    page.text("</section>");
}

/// What was checked.
pub(super) fn checks(page: &mut Page, verdict: &Verdict) {
    if verdict.checks.is_empty() {
        return;
    }
    page.text("<section aria-labelledby=\"checks\"><h2 id=\"checks\">What was checked</h2>");
    table(page, "Checks", &["check", "looked at", "", "verdict"]);
    for check in &verdict.checks {
        let (class, word) = match check.problems {
            0 => ("good", "held".to_owned()),
            count => ("bad", format!("{} broken", grouped(count))),
        };
        page.add(format_args!(
            "<tr><td>{}</td><td class=\"num\">{}</td><td>{}</td><td class=\"{class}\">{word}</td></tr>",
            escape(&check.name),
            grouped(check.checked),
            escape(&check.unit)
        ));
    }
    end_table(page);
    page.text("</section>");
}

/// The end of the page.
pub(super) fn foot(page: &mut Page) {
    page.add(format_args!("</main><script>{SCRIPT}</script></body></html>\n"));
}
