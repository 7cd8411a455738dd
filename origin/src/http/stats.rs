//! Live statistics of a room: its audience by relay and region, and what it hears.

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
    /// "I hear a glitch" within the last 30 to 60 seconds.
    glitches: u32,
    /// Listeners by what they lost.
    lost_permille: Vec<Bucket>,
    /// Listeners by what came too late.
    late_permille: Vec<Bucket>,
    /// Listeners by how much of their sound was made up.
    concealed_permille: Vec<Bucket>,
    /// Listeners by how far behind they are.
    delay_ms: Vec<Bucket>,
    /// By region, the one with the most listeners first: at most 32, and one more, `*`, for the others.
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
    /// The relay's or the region's name; empty for relays that name no region.
    name: String,
    /// A relay's region.
    #[serde(skip_serializing_if = "String::is_empty")]
    region: String,
    /// Listeners there.
    listeners: u32,
    /// Of them, those who report.
    reporting: u32,
    /// Of them, those who hear well.
    well: u32,
    /// "I hear a glitch" within the last 30 to 60 seconds.
    glitches: u32,
}

impl From<Audience> for Part {
    fn from(audience: Audience) -> Self {
        let Audience { relay, region, listeners, reporting, well, glitches } = audience;
        let (name, region) = match relay.is_empty() {
            true => (region, String::new()),
            false => (relay, region),
        };
        Self { name, region, listeners, reporting, well, glitches }
    }
}

impl Stats {
    pub(super) fn of(tally: &Tally, parts: Vec<Audience>) -> Self {
        let Experience { reporting, well, lost, late, concealed, delay, .. } = tally.experience;
        let permille = |counts| buckets(&limits::HEARD_PERMILLE, counts);
        let part = |parts: Vec<Audience>| parts.into_iter().map(Part::from).collect();
        let glitches = parts.iter().map(|part| part.glitches);
        Self {
            listeners: tally.listeners,
            reporting,
            well_percent: percent(well, reporting),
            glitches: glitches.fold(0, u32::saturating_add),
            lost_permille: permille(lost),
            late_permille: permille(late),
            concealed_permille: permille(concealed),
            delay_ms: buckets(&limits::HEARD_DELAY_MS, delay),
            regions: part(Audience::by_region(&parts)),
            relays: part(Audience::worst(parts)),
        }
    }
}

fn percent(part: u32, whole: u32) -> Option<f64> {
    (whole > 0).then(|| f64::from(part) * 100.0 / f64::from(whole))
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
        Ok::<_, RoomError>(Stats::of(&tally, parts))
    });
    Ok(asked.await??)
}
