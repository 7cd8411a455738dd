//! What the origin's rooms hear, as a part of `/metrics`.
//!
//! Its labels are the names of rooms, relays and regions. They come and go, so the text is written anew
//! each time instead of being kept by the recorder, which forgets nothing.

use std::fmt::Write as _;

use stentor_proto::limits;
use stentor_proto::node::{Audience, RoomAudience};
use stentor_proto::wire::Experience;

use crate::metrics::{self, Metric};

/// The text for these rooms; empty where there are none.
#[must_use]
pub fn render(rooms: &[RoomAudience]) -> String {
    let mut out = String::new();
    if rooms.is_empty() {
        return out;
    }
    let regions =
        || rooms.iter().flat_map(|room| room.regions.iter().map(move |part| (room, part)));
    let relays = || rooms.iter().flat_map(|room| room.relays.iter().map(move |part| (room, part)));
    let mut states = Text::of(&metrics::AUDIENCE, &mut out);
    for (room, part) in regions() {
        for (state, count) in states_of(part) {
            states.line(&[&room.room, &part.region, state], count);
        }
    }
    let mut states = Text::of(&metrics::AUDIENCE_RELAYS, &mut out);
    for (room, part) in relays() {
        for (state, count) in states_of(part) {
            states.line(&[&room.room, &part.region, &part.relay, state], count);
        }
    }
    let mut glitches = Text::of(&metrics::AUDIENCE_GLITCHES, &mut out);
    regions().for_each(|(room, p)| glitches.line(&[&room.room, &p.region], p.glitches));
    let mut glitches = Text::of(&metrics::AUDIENCE_RELAY_GLITCHES, &mut out);
    relays().for_each(|(room, p)| glitches.line(&[&room.room, &p.region, &p.relay], p.glitches));
    let mut heard = Text::of(&metrics::AUDIENCE_HEARD, &mut out);
    for room in rooms {
        for (figure, bounds, counts) in figures(&room.experience) {
            let bounds = bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
            for (most, count) in bounds.zip(counts) {
                heard.line(&[&room.room, figure, &most], count);
            }
        }
    }
    out
}

fn states_of(part: &Audience) -> [(&'static str, u32); 3] {
    [("all", part.listeners), ("reporting", part.reporting), ("well", part.well)]
}

type Figure = (&'static str, &'static [u32], [u32; limits::HEARD_BUCKETS]);

const fn figures(heard: &Experience) -> [Figure; 4] {
    [
        ("lost", &limits::HEARD_PERMILLE, heard.lost),
        ("late", &limits::HEARD_PERMILLE, heard.late),
        ("concealed", &limits::HEARD_PERMILLE, heard.concealed),
        ("delay", &limits::HEARD_DELAY_MS, heard.delay),
    ]
}

/// The lines of one metric.
struct Text<'a> {
    metric: &'static Metric,
    out: &'a mut String,
}

impl<'a> Text<'a> {
    fn of(metric: &'static Metric, out: &'a mut String) -> Self {
        let (name, help) = (metric.name, metric.help.trim());
        // Writing to a string does not fail.
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        Self { metric, out }
    }

    fn line(&mut self, values: &[&str], count: u32) {
        debug_assert_eq!(self.metric.labels.len(), values.len(), "{}", self.metric.name);
        let pairs = self.metric.labels.iter().zip(values);
        let pairs = pairs.map(|(label, value)| format!("{label}=\"{}\"", escaped(value)));
        let pairs = pairs.collect::<Vec<_>>().join(",");
        let _ = writeln!(self.out, "{}{{{pairs}}} {count}", self.metric.name);
    }
}

/// A label's value as the exposition format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_and_relay_has_its_lines() {
        let part = |relay: &str, region: &str, listeners| Audience {
            relay: relay.to_owned(),
            region: region.to_owned(),
            listeners,
            reporting: 2,
            well: 1,
            glitches: 7,
        };
        let mut experience = Experience::default();
        experience.concealed[5] = 9;
        let room = RoomAudience {
            room: "the \"hall\"\\\n".to_owned(),
            experience,
            regions: vec![part("", "eu", 3)],
            relays: vec![part("edge-1", "eu", 3)],
        };
        let text = render(&[room]);
        for line in [
            r#"stentor_audience_listeners{room="the \"hall\"\\\n",region="eu",state="all"} 3"#,
            r#"stentor_audience_relay_listeners{room="the \"hall\"\\\n",region="eu",relay="edge-1",state="well"} 1"#,
            r#"stentor_audience_relay_glitches{room="the \"hall\"\\\n",region="eu",relay="edge-1"} 7"#,
            r#"stentor_audience_heard{room="the \"hall\"\\\n",figure="concealed",most="+Inf"} 9"#,
            r#"stentor_audience_heard{room="the \"hall\"\\\n",figure="delay",most="1600"} 0"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        let metrics = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!((metrics, text.lines().count()), (5, 10 + 3 + 3 + 1 + 1 + 24));
        assert_eq!(render(&[]), "");
    }
}
