//! Tokens.
use crate::wire::{Close, CloseCode, Role};

/// Claims.
#[derive(Clone, Debug)]
pub struct Claims {
    /// Identity.
    pub sub: String,
    /// Room.
    pub room: String,
    /// Role.
    pub role: Role,
    /// Expiry.
    pub exp: u64,
    /// Name.
    pub name: Option<String>,
}

/// Verifier.
#[derive(Clone, Debug, Default)]
pub struct Verifier;

impl Verifier {
    /// From published.
    pub fn from_published(_keys: &[(String, String)]) -> Self {
        Self
    }
    /// Verify.
    pub fn verify(&self, _token: &str, _now: u64) -> Result<Claims, Close> {
        Err(Close::new(CloseCode::TokenInvalid, "interim"))
    }
}
