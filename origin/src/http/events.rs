//! What happens in a room, as server-sent events, for its hosts.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream;
use serde_json::json;
use stentor_proto::authority::Action;
use stentor_proto::node::{News, NewsKind};
use stentor_proto::token::Claims;
use stentor_relay::metrics;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Instant, Interval, interval, sleep_until};

use super::auth::{Caller, unix_s};
use super::json::RoomName;
use super::rooms::RoomDocument;
use super::{Api, Problem, stats};

/// Statistics are sent this often.
const STATS_EVERY: Duration = Duration::from_secs(2);

/// Somebody who follows a room.
struct Follower {
    api: Api,
    caller: Caller,
    claims: Claims,
    room: String,
    news: Receiver<Arc<News>>,
    stats: Interval,
    ends: Instant,
    /// The last event was the last one.
    over: bool,
    _place: OwnedSemaphorePermit,
}

/// Follow what happens
///
/// Events: `room` (the document), `hand` {identity, name, raised}, `stage` {identity, role}, `stats`,
/// `ended`. The first one is `room`. The stream ends with the room, with the token, and for whoever
/// reads too slowly; whoever wants more opens it again.
#[utoipa::path(get, path = "/v1/rooms/{room}/events", params(("room" = String, Path)),
    security(("token" = [])),
    responses((status = 200, description = "server-sent events", content_type = "text/event-stream"),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn events(
    State(api): State<Api>,
    caller: Caller,
    RoomName(room): RoomName,
) -> Result<impl IntoResponse, Problem> {
    let (_, claims) = caller.may(&api, &room, Action::FollowEvents).await?;
    let place = Arc::clone(&api.0.followers).try_acquire_owned().map_err(|_| {
        metrics::HTTP_REFUSED.counter(&["followers"]).increment(1);
        let detail = "as many follow rooms as may; try again later";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "followers_full", detail).retry_after(10)
    })?;
    // Followed from before the first document is read: nothing falls between the two.
    let news = api.parts().news.subscribe();
    let name = room.clone();
    let info = api.parts().commands.ask(move |origin, _| origin.room_info(&name)).await??;
    let left = claims.ends().saturating_sub(unix_s());
    let follower = Follower {
        caller,
        claims,
        room,
        news,
        stats: interval(STATS_EVERY),
        ends: Instant::now() + Duration::from_secs(left),
        over: false,
        _place: place,
        api,
    };
    let first = event("room", &RoomDocument::from(info));
    let first = stream::once(async move { Ok::<_, Infallible>(first) });
    let rest = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    use futures_util::StreamExt as _;
    Ok(Sse::new(first.chain(rest)).keep_alive(KeepAlive::default()))
}

impl Follower {
    async fn next(&mut self) -> Option<Event> {
        while !self.over {
            tokio::select! {
                () = sleep_until(self.ends) => return None,
                _ = self.stats.tick() => {
                    let (api, room) = (&self.api, self.room.as_str());
                    self.caller.not_revoked(api, room, &self.claims).await.ok()?;
                    if let Ok(stats) = stats::of(api, room.to_owned()).await {
                        return Some(event("stats", &stats));
                    }
                }
                news = self.news.recv() => match news {
                    Ok(news) if news.room == self.room => {
                        self.over = news.what == NewsKind::Ended;
                        if let Some(event) = told(&news.what) {
                            return Some(event);
                        }
                    }
                    Ok(_) => {}
                    Err(RecvError::Closed) => return None,
                    Err(RecvError::Lagged(_)) => {
                        metrics::HTTP_REFUSED.counter(&["slow_follower"]).increment(1);
                        return None;
                    }
                },
            }
        }
        None
    }
}

/// What a follower is told; nothing of what is only to be kept.
fn told(what: &NewsKind) -> Option<Event> {
    Some(match what {
        NewsKind::Room(info) => event("room", &RoomDocument::from((**info).clone())),
        NewsKind::Hand(hand) => event(
            "hand",
            &json!({"identity": hand.identity, "name": hand.name, "raised": hand.raised}),
        ),
        NewsKind::Stage { identity, role } => {
            event("stage", &json!({"identity": identity, "role": role.map(|role| role.name())}))
        }
        NewsKind::Ended => event("ended", &json!({})),
        NewsKind::AddressBanned(_) => return None,
    })
}

fn event(name: &str, data: &impl serde::Serialize) -> Event {
    // Plain data: it always has a form in JSON, and that holds no line break.
    let data = serde_json::to_string(data).unwrap_or_default();
    Event::default().event(name).data(data)
}
