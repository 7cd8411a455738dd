//! Live statistics of a room: its audience by relay and region, and what it hears.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;
use stentor_proto::authority::Action;
use stentor_proto::limits;
use stentor_proto::node::{Audience, RoomError};
use stentor_proto::wire::{Experience, Tally};
use utoipa::ToSchema;

use super::auth::Caller;
use super::json::{Json, RoomName};
use super::{Api, Problem};

/// A room's live statistics.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Stats {
    /// Listeners in the whole tree.
    listeners: u32,
    /// Those who report what they hear.
    reporting: u32,
    /// Of them, in percent, those who hear well; absent where nobody reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    well_percent: Option<f64>,
    /// "I hear a glitch" within the last second.
    glitches: u32,
    /// Listeners by what they lost.
    lost_permille: Vec<Bucket>,
    /// Listeners by what came too late.
    late_permille: Vec<Bucket>,
    /// Listeners by how much of their sound was made up.
    concealed_permille: Vec<Bucket>,
    /// Listeners by how far behind they are.
    delay_ms: Vec<Bucket>,
    /// By region.
    regions: Vec<Part>,
    /// The relays with the most listeners who do not hear well, and then the largest: at most 64.
    relays: Vec<Part>,
}

/// So many listeners, at most at this figure.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(super) struct Bucket {
    /// The figure; absent in the last bucket, which has no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    most: Option<u32>,
    /// Listeners above the former bucket's and at most at this one's.
    listeners: u32,
}

/// A part of the audience.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct Part {
    /// The relay's or the region's name.
    name: String,
    /// Listeners there.
    listeners: u32,
    /// Of them, those who report.
    reporting: u32,
    /// Of them, those who hear well.
    well: u32,
}

impl Part {
    fn trouble(&self) -> u32 {
        self.reporting - self.well
    }
}

impl Stats {
    pub(super) fn of(tally: &Tally, parts: &[Audience]) -> Self {
        let Experience { reporting, well, glitches, lost, late, concealed, delay } =
            tally.experience;
        let permille = |counts| buckets(&limits::HEARD_PERMILLE, counts);
        let mut regions = BTreeMap::<&str, Part>::new();
        for part in parts {
            let sum = regions.entry(&part.region).or_default();
            sum.name.clone_from(&part.region);
            sum.listeners = sum.listeners.saturating_add(part.listeners);
            sum.reporting = sum.reporting.saturating_add(part.reporting);
            sum.well = sum.well.saturating_add(part.well);
        }
        let part = |part: &Audience| Part {
            name: part.relay.clone(),
            listeners: part.listeners,
            reporting: part.reporting,
            well: part.well,
        };
        let mut relays: Vec<Part> = parts.iter().map(part).collect();
        relays.sort_by_key(|part| std::cmp::Reverse((part.trouble(), part.listeners)));
        relays.truncate(limits::STATS_RELAYS);
        Self {
            listeners: tally.listeners,
            reporting,
            well_percent: (reporting > 0).then(|| f64::from(well) * 100.0 / f64::from(reporting)),
            glitches,
            lost_permille: permille(lost),
            late_permille: permille(late),
            concealed_permille: permille(concealed),
            delay_ms: buckets(&limits::HEARD_DELAY_MS, delay),
            regions: regions.into_values().collect(),
            relays,
        }
    }
}

fn buckets(bounds: &[u32], counts: [u32; limits::HEARD_BUCKETS]) -> Vec<Bucket> {
    let bounds = bounds.iter().copied().map(Some).chain([None]);
    bounds.zip(counts).map(|(most, listeners)| Bucket { most, listeners }).collect()
}

/// Live statistics
#[utoipa::path(get, path = "/v1/rooms/{room}/stats", params(("room" = String, Path)),
    security(("token" = [])), responses((status = 200, body = Stats),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn stats(
    State(api): State<Api>,
    caller: Caller,
    RoomName(room): RoomName,
) -> Result<Json<Stats>, Problem> {
    caller.may(&api, &room, Action::SeeStats).await?;
    Ok(Json(of(&api, room).await?))
}

/// The statistics of a room at this moment.
pub(super) async fn of(api: &Api, room: String) -> Result<Stats, Problem> {
    let asked = api.parts().commands.ask(move |origin, _| {
        let (tally, parts) = origin.audience(&room)?;
        Ok::<_, RoomError>(Stats::of(&tally, &parts))
    });
    Ok(asked.await??)
}
