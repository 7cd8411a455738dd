//! What every request passes: budgets by address, a deadline, counts; and the page.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::IntoResponse as _;
use stentor_proto::session::Budget;
use stentor_proto::{Time, limits};
use stentor_relay::{metrics, web};

use super::{Api, Problem};

/// Budgets of those who call, by address, in constant space.
pub(super) struct Callers {
    hasher: RandomState,
    budgets: Mutex<Vec<Budget>>,
}

impl Callers {
    pub(super) fn new(per_s: u32) -> Self {
        let budgets = vec![Budget::new(per_s, Time::ZERO); limits::HTTP_ADDRESSES];
        Self { hasher: RandomState::new(), budgets: Mutex::new(budgets) }
    }

    fn spend(&self, address: IpAddr, now: Time) -> bool {
        let hash = self.hasher.hash_one(network(address));
        let at = usize::try_from(hash % limits::HTTP_ADDRESSES as u64).unwrap_or(0);
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        budgets[at].spend(now)
    }
}

/// What one household has: an IPv4 address, or the 64 bits of an IPv6 network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        address => address,
    }
}

/// Charges, bounds and counts a request.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response<Body> {
    let response = guarded(&api, request, next).await;
    let status = match response.status().as_u16() {
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    metrics::HTTP_REQUESTS.counter(&[status]).increment(1);
    response
}

async fn guarded(api: &Api, request: Request, next: Next) -> Response<Body> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    // Files of the page cost nothing but their bytes; a call may go to the control thread.
    let call = request.uri().path().starts_with("/v1");
    if call && let Some(peer) = peer {
        let now = api.parts().clock.time(Instant::now());
        let budgets = if reads { &api.0.readers } else { &api.0.writers };
        if !budgets.spend(peer, now) {
            metrics::HTTP_REFUSED.counter(&["address"]).increment(1);
            let detail = "too many requests from this address; slow down";
            let status = StatusCode::TOO_MANY_REQUESTS;
            return Problem::new(status, "too_many_requests", detail)
                .retry_after(1)
                .into_response();
        }
    }
    let answered = tokio::time::timeout(limits::HTTP_REQUEST_TIME, next.run(request)).await;
    let mut response = answered.unwrap_or_else(|_| {
        let detail = "the request took too long to arrive or to answer";
        Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail).into_response()
    });
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(nosniff);
    response
}

/// A path under `/v1` that is no call.
pub(super) async fn no_such_call(uri: Uri) -> Problem {
    let detail = format!("there is no call {}; /v1/openapi.json lists them", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "no_such_call", detail)
}

/// A method that a call does not have.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} takes no {method}; /v1/openapi.json lists what it takes", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no_such_method", detail)
}

/// The page and its files.
pub(super) async fn page(method: Method, uri: Uri, headers: HeaderMap) -> Response<Body> {
    if !matches!(method, Method::GET | Method::HEAD) {
        return no_such_method(method, uri).await.into_response();
    }
    web::response(uri.path(), &headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_budget_and_a_network_shares_one() {
        let callers = Callers::new(5);
        let spent = |address: &str, now| {
            let address = address.parse().unwrap();
            (0..20).filter(|_| callers.spend(address, now)).count()
        };
        assert_eq!(spent("192.0.2.1", Time::ZERO), 5);
        assert_eq!(spent("::ffff:192.0.2.1", Time::ZERO), 0, "mapped, and the same");
        assert_eq!(spent("2001:db8::1", Time::ZERO), 5);
        assert_eq!(spent("2001:db8::ffff:2", Time::ZERO), 0, "one network");
        assert_eq!(spent("192.0.2.1", Time::from_millis(1_000)), 5);
    }
}
