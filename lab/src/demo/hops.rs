//! What each hop of the tree took, from the nodes' own events.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer};

/// One tick that a node passed on.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Passed {
    /// Its number.
    pub(super) number: u32,
    /// The origin's clock when it closed, in microseconds since the Unix epoch.
    pub(super) clock_us: u64,
    /// The kernel's receive time in nanoseconds since the Unix epoch; 0 at the origin.
    pub(super) received_ns: u64,
    /// The fingerprint of its record.
    #[serde(deserialize_with = "hex")]
    pub(super) fingerprint: u64,
}

fn hex<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    u64::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
}

/// The ticks that each node passed on, by name.
#[derive(Debug, Default)]
pub(super) struct Journal {
    nodes: BTreeMap<String, BTreeMap<u32, Passed>>,
}

/// One tick's way from a parent to its child.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hop<'a> {
    /// The child.
    pub(super) child: &'a str,
    /// The tick.
    pub(super) number: u32,
    /// From the kernel's receive time at the parent to that at the child.
    pub(super) ms: f64,
}

impl Journal {
    /// Reads a node's events.
    pub(super) fn read(&mut self, node: &str, path: &Path) -> Result<()> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let ticks = self.nodes.entry(node.to_owned()).or_default();
        for line in BufReader::new(file).lines() {
            // The last line may be half written, and a later release may have other events.
            if let Ok(passed) = serde_json::from_str::<Passed>(&line?) {
                ticks.entry(passed.number).or_insert(passed);
            }
        }
        Ok(())
    }

    /// Ticks with numbers from `first` to `last` that a node passed on.
    pub(super) fn count(&self, node: &str, first: u32, last: u32) -> usize {
        let ticks = self.nodes.get(node);
        ticks.map_or(0, |ticks| ticks.range(first..=last.max(first)).count())
    }

    /// How many of these ticks, by fingerprint, are not as `node` passed them on.
    pub(super) fn altered(&self, node: &str, copies: &BTreeMap<u32, u64>) -> u64 {
        let ticks = self.nodes.get(node);
        let sent = |number: &u32| Some(ticks?.get(number)?.fingerprint);
        copies.iter().filter(|&(number, copy)| sent(number) != Some(*copy)).count() as u64
    }

    /// The hops to `child` of ticks from number `from` on. The first copy of a tick wins, and its
    /// way is counted from the parent that had the tick first: no hop is made to look shorter.
    pub(super) fn hops<'a>(
        &'a self,
        child: &'a str,
        parents: &'a [String],
        from: u32,
    ) -> impl Iterator<Item = Hop<'a>> {
        let received = self.nodes.get(child).into_iter().flat_map(move |ticks| ticks.range(from..));
        received.filter_map(move |(number, passed)| {
            let at = |parent: &String| self.nodes.get(parent)?.get(number).map(Passed::left_ns);
            let parent = parents.iter().filter_map(at).min()?;
            let ms = (passed.received_ns as f64 - parent as f64) / 1e6;
            (passed.received_ns > 0).then_some(Hop { child, number: *number, ms })
        })
    }
}

impl Passed {
    /// When the node had the tick: it was received, or (at the origin) it closed.
    const fn left_ns(&self) -> u64 {
        match self.received_ns {
            0 => self.clock_us * 1_000,
            at => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_begins_at_the_parent_that_had_the_tick_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::default();
        let line = |number: u32, clock_us: u64, received_ns: u64| {
            format!(
                "{{\"event\":\"tick\",\"node\":\"x\",\"room\":1,\"epoch\":1,\"number\":{number},\
                 \"clock_us\":{clock_us},\"flags\":0,\"received_ns\":{received_ns},\"fingerprint\":\"00000000000000{number:02x}\"}}\n"
            )
        };
        for (node, text) in [
            ("origin", line(7, 1_000, 0)),
            ("a", line(7, 1_000, 2_000_000)),
            ("b", line(7, 1_000, 2_500_000)),
            ("c", line(6, 1, 0) + &line(7, 1_000, 3_000_000) + "{\"half\""),
        ] {
            let path = dir.path().join(node);
            std::fs::write(&path, text).unwrap();
            journal.read(node, &path).unwrap();
        }
        let parents = ["b".to_owned(), "a".to_owned(), "gone".to_owned()];
        let hops: Vec<Hop<'_>> = journal.hops("c", &parents, 1).collect();
        assert_eq!(hops, [Hop { child: "c", number: 7, ms: 1.0 }]);
        let origin = ["origin".to_owned()];
        assert_eq!(journal.hops("a", &origin, 1).next().map(|hop| hop.ms), Some(1.0));
        let copies = BTreeMap::from([(6, 6), (7, 0), (8, 8)]);
        assert_eq!(journal.altered("c", &copies), 2, "one has other bytes, one was never sent");
        assert_eq!((journal.count("c", 7, 9), journal.count("nobody", 1, 9)), (1, 0));
    }
}
