//! The timeline of faults: a row for each kind, a lane in it for each node.

use std::collections::BTreeSet;

use super::Run;
use super::chart::{Frame, LEFT, RIGHT, WIDTH};
use super::figures::Figures;
use super::html::{Page, duration, escape};
use crate::history::NodeId;
use crate::timeline::{Kind, Mishap};

const LANE: f64 = 9.0;
const GAP: f64 = 9.0;
/// The least width of a bar, so that what was short is seen.
const LEAST: f64 = 2.5;

/// The kinds in the order in which they are listed, with their names.
pub(super) const KINDS: [(Kind, &str); 13] = [
    (Kind::Kill, "kill"),
    (Kind::PowerLoss, "power loss"),
    (Kind::Partition, "partition"),
    (Kind::PartialPartition, "partial partition"),
    (Kind::BadLink, "bad link"),
    (Kind::Pause, "pause"),
    (Kind::Disk, "disk"),
    (Kind::Clock, "clock"),
    (Kind::Membership, "membership"),
    (Kind::BitFlip, "bit flip"),
    (Kind::Restart, "restart"),
    (Kind::Transfer, "transfer"),
    (Kind::Maintenance, "maintenance"),
];

/// The section with the timeline, and the list of all faults.
pub(super) fn section(page: &mut Page, run: &Run, figures: &Figures, mishaps: &[Mishap]) {
    page.text("<section aria-labelledby=\"faults\"><h2 id=\"faults\">What was done to the cluster</h2>");
    if mishaps.is_empty() {
        page.text("<p class=\"note\">Nothing.</p></section>");
        return;
    }
    page.text("<p class=\"note\">One lane for each node, the first on top. Faults of the whole cluster fill all lanes.</p>");
    timeline(page, run, figures, mishaps);
    list(page, mishaps);
    page.text("</section>");
}

fn timeline(page: &mut Page, run: &Run, figures: &Figures, mishaps: &[Mishap]) {
    let mut nodes: BTreeSet<NodeId> = (1..=run.nodes as u64).collect();
    nodes.extend(mishaps.iter().flat_map(|mishap| &mishap.nodes));
    let nodes: Vec<_> = nodes.into_iter().collect();
    let kinds: Vec<_> =
        KINDS.into_iter().filter(|(kind, _)| mishaps.iter().any(|mishap| mishap.kind == *kind)).collect();
    let row = nodes.len() as f64 * LANE + GAP;
    let frame = Frame::new(kinds.len() as f64 * row + 8.0, figures.span);
    frame.open(page, "Timeline of faults by kind and node");
    frame.time_axis(page);
    for (place, (kind, name)) in kinds.iter().enumerate() {
        let top = place as f64 * row + 6.0;
        page.add(format_args!(
            "<text class=\"row\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
            LEFT - 10.0,
            top + (row - GAP) / 2.0 + 4.0
        ));
        for lane in 0..nodes.len() {
            let y = top + (lane as f64 + 0.5) * LANE;
            page.add(format_args!(
                "<line class=\"guide\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                WIDTH - RIGHT
            ));
        }
        for mishap in mishaps.iter().filter(|mishap| mishap.kind == *kind) {
            bars(page, &frame, mishap, &nodes, top);
        }
    }
    page.text(Frame::CLOSE);
}

fn bars(page: &mut Page, frame: &Frame, mishap: &Mishap, nodes: &[NodeId], top: f64) {
    let (left, right) = (frame.x(mishap.begun), frame.x(mishap.ended));
    let width = (right - left).max(LEAST);
    page.add(format_args!("<g class=\"fault\"><title>{}</title>", escape(&described(mishap))));
    if mishap.nodes.is_empty() {
        page.add(format_args!(
            "<rect class=\"all\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\"/>",
            nodes.len() as f64 * LANE
        ));
    }
    for node in &mishap.nodes {
        let lane = nodes.iter().position(|known| known == node).unwrap_or(0) as f64;
        page.add(format_args!(
            "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\"/>",
            top + lane * LANE + 1.0,
            LANE - 2.0
        ));
    }
    page.text("</g>");
}

fn described(mishap: &Mishap) -> String {
    let nodes = mishap.nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let nodes = if nodes.is_empty() { "all".to_owned() } else { nodes };
    format!(
        "{} at {:.1} s for {} · node {nodes} · {}",
        mishap.fault,
        mishap.begun as f64 / 1e9,
        duration(mishap.ended.saturating_sub(mishap.begun)),
        mishap.detail
    )
}

fn list(page: &mut Page, mishaps: &[Mishap]) {
    page.text(
        "<details><summary>All faults as a list</summary><div class=\"scroll\" tabindex=\"0\" role=\"region\" \
         aria-label=\"All faults\"><table><thead><tr><th scope=\"col\">began</th><th scope=\"col\">lasted</th>\
         <th scope=\"col\">fault</th><th scope=\"col\">nodes</th><th scope=\"col\">what exactly</th></tr></thead><tbody>",
    );
    for mishap in mishaps {
        let nodes = mishap.nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        page.add(format_args!(
            "<tr><td class=\"num\">{:.1}\u{202f}s</td><td class=\"num\">{}</td><td>{}</td><td>{nodes}</td><td>{}</td></tr>",
            mishap.begun as f64 / 1e9,
            duration(mishap.ended.saturating_sub(mishap.begun)),
            escape(&mishap.fault),
            escape(&mishap.detail)
        ));
    }
    page.text("</tbody></table></div></details>");
}
