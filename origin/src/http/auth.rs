//! Who calls: the token in `Authorization: Bearer …`, or nobody in particular.

use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::{StatusCode, header, request::Parts};
use stentor_proto::limits;
use stentor_proto::token::Claims;

use super::{Api, Problem};

/// Who calls.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// What the token says, if there is one; its signature and times are checked.
    pub(super) claims: Option<Claims>,
    /// Where the call comes from; a proxy's address says nothing of who is behind it.
    pub(super) address: Option<IpAddr>,
}

impl Caller {
    /// The claims, where a call needs a token.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn claims(&self) -> Result<&Claims, Problem> {
        self.claims.as_ref().ok_or_else(|| {
            let detail = "this needs a token: Authorization: Bearer TOKEN";
            Problem::new(StatusCode::UNAUTHORIZED, "token_missing", detail)
        })
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let address = peer.map(|peer| peer.0.ip().to_canonical());
        let Some(value) = parts.headers.get(header::AUTHORIZATION) else {
            return Ok(Self { claims: None, address });
        };
        let text = value.to_str().unwrap_or_default();
        let scheme = text.get(..7).unwrap_or_default();
        let token = text.get(7..).unwrap_or_default().trim();
        if !scheme.eq_ignore_ascii_case("Bearer ") || token.len() > limits::TOKEN_BYTES {
            let detail = "write Authorization: Bearer TOKEN";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "token_invalid", detail));
        }
        Ok(Self { claims: Some(api.parts().verifier.verify(token, unix_s())?), address })
    }
}

/// The wall clock: seconds since 1970, UTC.
pub(super) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
