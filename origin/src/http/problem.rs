//! What the API answers when it cannot do what was asked: problem details (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use stentor_proto::names::NameError;
use stentor_proto::node::RoomError;
use stentor_proto::token::TokenError;
use stentor_relay::command::AskError;
use stentor_relay::metrics;
use utoipa::ToSchema;

/// A problem (RFC 9457). `code` is stable; `detail` is one sentence for people.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the status says what kind it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong and what to do.
    detail: String,
    /// The problem's stable name.
    code: &'static str,
    /// When to try again, in seconds; as the header `Retry-After` too.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl Problem {
    /// A problem of this status.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("problem"),
            status: status.as_u16(),
            detail: detail.into(),
            code,
            retry_after: None,
        }
    }

    /// With the time after which trying again makes sense, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The problem's stable name.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn bad(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub(super) fn forbidden(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    pub(super) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(1)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

impl From<RoomError> for Problem {
    fn from(error: RoomError) -> Self {
        let status = match &error {
            RoomError::NoRoom(_) => StatusCode::NOT_FOUND,
            RoomError::Exists(_) => StatusCode::CONFLICT,
            RoomError::Full => StatusCode::SERVICE_UNAVAILABLE,
            RoomError::Setting(_) => StatusCode::BAD_REQUEST,
            RoomError::NotOnStage(_) | RoomError::InvitationsFull | RoomError::BansFull => {
                StatusCode::CONFLICT
            }
        };
        Self::new(status, error.code(), error.to_string())
    }
}

impl From<NameError> for Problem {
    fn from(error: NameError) -> Self {
        Self::bad(error.code(), error.to_string())
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        metrics::HTTP_REFUSED.counter(&["busy"]).increment(1);
        Self::unavailable("busy", error.to_string())
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let status = match error {
            TokenError::Room | TokenError::Role { .. } => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        };
        Self::new(status, error.code().name(), error.to_string())
    }
}
