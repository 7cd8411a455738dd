//! Bodies and queries: JSON in, JSON out, every mistake a named problem.

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{HeaderValue, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Problem;

/// A body of JSON; no body is `{}`. Unknown fields are a later release's, and ignored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let empty = request.headers().get(header::CONTENT_LENGTH).is_none_or(|len| len == "0")
            && !request.headers().contains_key(header::TRANSFER_ENCODING);
        if empty {
            let value = serde_json::from_str("{}");
            return value.map(Self).map_err(|error| Problem::bad("bad_body", error.to_string()));
        }
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(JsonRejection::MissingJsonContentType(_)) => {
                let detail = "write Content-Type: application/json";
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                Err(Problem::new(status, "not_json", detail))
            }
            Err(JsonRejection::BytesRejection(error)) => {
                Err(Problem::new(error.status(), "body_too_large", error.body_text()))
            }
            Err(error) => Err(Problem::bad("bad_body", error.body_text())),
        }
    }
}

/// The part of the URL behind `?`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        let query = query.map_err(|error| Problem::bad("bad_query", error.body_text()))?;
        Ok(Self(query.0))
    }
}

/// A room's name in the path.
#[derive(Clone, Debug)]
pub(super) struct RoomName(pub String);

impl<S: Send + Sync> FromRequestParts<S> for RoomName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        let axum::extract::Path(name) =
            path.map_err(|error| Problem::bad("bad_path", error.body_text()))?;
        stentor_proto::names::check_name("the room's name", &name)?;
        Ok(Self(name))
    }
}

/// An answer of JSON that nobody keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let mut response = axum::Json(self.0).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// A document that anyone may read, from any page, and keep for a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Public<T>(pub T);

impl<T: Serialize> IntoResponse for Public<T> {
    fn into_response(self) -> Response {
        let mut response = axum::Json(self.0).into_response();
        let headers = response.headers_mut();
        let cached = HeaderValue::from_static("public, max-age=1");
        headers.insert(header::CACHE_CONTROL, cached);
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(header::VARY, HeaderValue::from_static("authorization"));
        response
    }
}
