//! The description of every call, made from the handlers themselves.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa::openapi::OpenApi as Description;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Api, actions, events, join, rooms, stats, tokens, webhooks};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Stentor",
        description = "Rooms, tokens, people on stage and statistics of an origin. \
            Sessions themselves are QUIC or WebTransport: docs/PROTOCOL.md."
    ),
    modifiers(&Bearer)
)]
struct Head;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, description: &mut Description) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Every call with its description.
pub(super) fn calls() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Head::openapi())
        .routes(routes!(rooms::list, rooms::create))
        .routes(routes!(rooms::show, actions::change, actions::end))
        .routes(routes!(actions::act))
        .routes(routes!(actions::participants))
        .routes(routes!(tokens::mint))
        .routes(routes!(tokens::accept))
        .routes(routes!(stats::stats))
        .routes(routes!(events::events))
        .routes(routes!(webhooks::make, webhooks::list))
        .routes(routes!(webhooks::remove))
        .routes(routes!(join::join))
        .routes(routes!(join::relays))
        .routes(routes!(join::watermark))
}

/// The description as it is sent.
#[derive(Clone)]
pub(super) struct Described(Bytes);

impl Described {
    pub(super) fn new(description: &Description) -> Self {
        // Plain data: it always has a form in JSON.
        Self(description.to_pretty_json().unwrap_or_default().into())
    }

    #[allow(clippy::unused_async, reason = "a handler is a future")]
    pub(super) async fn answer(self) -> Response {
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let anyone = (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        ([kind, anyone], self.0).into_response()
    }
}
