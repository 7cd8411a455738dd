//! Tokens: JWT (RFC 7519) signed with EdDSA over Ed25519 (RFC 8037), minted by the origin and
//! verified offline by every node (`docs/PROTOCOL.md`, the section on tokens).
//!
//! The signature algorithm is pinned, the key is chosen by `kid`, and time is an argument. No
//! error repeats any part of a token, so that errors can be logged.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes, spki::der::pem};
use ed25519_dalek::{SigningKey, VerifyingKey};
use jsonwebtoken::errors::{Error as JwtError, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::wire::{Close, CloseCode, Role};

/// The audience (`aud`) of every token of this protocol.
pub const AUDIENCE: &str = "stentor";
/// The room of a relay's token, for a relay carries any room; and of an API key, a host's token for
/// every room.
pub const ANY_ROOM: &str = "*";
/// The identity in a relay's token that is good for a relay of any name: development mode's.
pub const ANY_RELAY: &str = "*";

/// What a token says. The audience is implied: it is always [`AUDIENCE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The identity that the token was given to.
    pub sub: String,
    /// The exact name of the room; [`ANY_ROOM`] for a relay and in an API key.
    pub room: String,
    /// What the bearer may be.
    pub role: Role,
    /// Valid until then (seconds since 1970, UTC).
    pub exp: u64,
    /// Minted then (seconds since 1970, UTC).
    pub iat: u64,
    /// The token's own name, by which it can be revoked.
    pub jti: String,
    /// Not valid before then (seconds since 1970, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Who minted it, for people; the key id is what counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// A name to show for the bearer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Claims {
    /// When the token ends (seconds since 1970, UTC): `exp` and the leeway for clocks that differ.
    /// It is refused from then on, and a session that lives by it is closed.
    #[must_use]
    pub const fn ends(&self) -> u64 {
        self.exp.saturating_add(limits::TOKEN_LEEWAY_S)
    }

    /// Whether the bearer may be `role` in `room`. Any role but a relay's may also listen; the
    /// room is not looked at for a relay.
    ///
    /// # Errors
    /// [`TokenError::Role`] or [`TokenError::Room`].
    pub fn allow(&self, room: &str, role: Role) -> Result<(), TokenError> {
        let listens = role == Role::Listener && self.role != Role::Relay;
        if self.role != role && !listens {
            return Err(TokenError::Role { held: self.role, asked: role });
        }
        if role != Role::Relay && (self.room != room || self.is_api_key()) {
            return Err(TokenError::Room);
        }
        Ok(())
    }

    /// Whether this is an API key: a host's token for every room. It is good for the HTTP API and
    /// joins no room itself.
    #[must_use]
    pub fn is_api_key(&self) -> bool {
        self.role == Role::Host && self.room == ANY_ROOM
    }

    fn is_any_room(&self) -> bool {
        self.role == Role::Relay || self.is_api_key()
    }

    /// Bounds, names and times; the signature is not looked at here.
    fn check(&self, now_unix_s: u64) -> Result<(), TokenError> {
        check_name("sub", &self.sub)?;
        check_name("room", &self.room)?;
        check_name("jti", &self.jti)?;
        if let Some(name) = &self.name {
            check_name("name", name)?;
        }
        let any = self.room == ANY_ROOM;
        if (self.role == Role::Relay && !any) || (any && !self.is_any_room()) {
            return Err(TokenError::Malformed("room: * is for relays and API keys"));
        }
        if now_unix_s >= self.ends() {
            return Err(TokenError::Expired { ago_s: now_unix_s.saturating_sub(self.exp) });
        }
        let from = self.nbf.unwrap_or(0).max(self.iat);
        if now_unix_s.saturating_add(limits::TOKEN_LEEWAY_S) < from {
            return Err(TokenError::NotYetValid { in_s: from - now_unix_s });
        }
        Ok(())
    }
}

/// Why a token is refused. The bearer, or whoever minted it, is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Larger than [`limits::TOKEN_BYTES`].
    #[error("the token has {0} bytes; {most} are allowed", most = limits::TOKEN_BYTES)]
    TooLong(usize),
    /// Not a JWT of this protocol; the text names the part.
    #[error("the token is malformed ({0}); ask the host for a new one")]
    Malformed(&'static str),
    /// Another algorithm than EdDSA, `none` included.
    #[error("the token is not signed with EdDSA")]
    Algorithm,
    /// The header names no key.
    #[error("the token's header has no kid")]
    NoKeyId,
    /// The header names a key that this node does not have.
    #[error("the token is signed with a key that this node does not know")]
    UnknownKey,
    /// The signature does not belong to these bytes and this key.
    #[error("the token's signature is wrong")]
    Signature,
    /// Minted for another service.
    #[error("the token's audience is not {AUDIENCE}")]
    Audience,
    /// Past its `exp`.
    #[error("the token expired {ago_s} s ago; ask the host for a new one")]
    Expired {
        /// Seconds since `exp`.
        ago_s: u64,
    },
    /// Before its `nbf` or `iat`: one of the clocks is wrong.
    #[error("the token is valid only in {in_s} s; is a clock wrong?")]
    NotYetValid {
        /// Seconds until it is valid.
        in_s: u64,
    },
    /// Minted for another room.
    #[error("the token is for another room")]
    Room,
    /// Minted for another role.
    #[error("the token is for a {}, not for a {}", held.name(), asked.name())]
    Role {
        /// The role in the token.
        held: Role,
        /// The role in the hello.
        asked: Role,
    },
}

impl TokenError {
    /// The close code that the bearer gets.
    #[must_use]
    pub const fn code(&self) -> CloseCode {
        match self {
            Self::Expired { .. } => CloseCode::TokenExpired,
            Self::Room => CloseCode::TokenRoom,
            Self::Role { .. } => CloseCode::TokenRole,
            Self::TooLong(_)
            | Self::Malformed(_)
            | Self::Algorithm
            | Self::NoKeyId
            | Self::UnknownKey
            | Self::Signature
            | Self::Audience
            | Self::NotYetValid { .. } => CloseCode::TokenInvalid,
        }
    }
}

impl From<TokenError> for Close {
    fn from(error: TokenError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// Why a key or a token could not be made. Whoever configured the key or asked is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a PKCS#8 PEM with an Ed25519 private key.
    #[error(
        "not an Ed25519 private key in PKCS#8 PEM (make one: openssl genpkey -algorithm ed25519)"
    )]
    Private,
    /// Not a public key: 32 bytes in base64url that are a point of the curve.
    #[error("not an Ed25519 public key (32 bytes as base64url without padding)")]
    Public,
    /// More than [`limits::TOKEN_KEYS`], an empty, too long or repeated key id.
    #[error(
        "key ids must be 1 to {} bytes and distinct, and at most {} in number",
        limits::NAME_BYTES,
        limits::TOKEN_KEYS
    )]
    Ids,
    /// The claims would be refused by every verifier.
    #[error("{0}")]
    Claims(TokenError),
}

/// Verifies tokens against a set of public keys.
#[derive(Clone)]
pub struct Verifier {
    keys: Vec<(String, DecodingKey)>,
    validation: Validation,
}

impl Verifier {
    /// A verifier for these keys: key id and Ed25519 public key.
    ///
    /// # Errors
    /// [`KeyError::Public`] or [`KeyError::Ids`].
    pub fn new(keys: impl IntoIterator<Item = (String, [u8; 32])>) -> Result<Self, KeyError> {
        let mut held: Vec<(String, DecodingKey)> = Vec::new();
        for (kid, key) in keys {
            let known = held.iter().any(|(k, _)| *k == kid);
            let len_ok = (1..=limits::NAME_BYTES).contains(&kid.len());
            if known || !len_ok || held.len() == limits::TOKEN_KEYS {
                return Err(KeyError::Ids);
            }
            VerifyingKey::from_bytes(&key).map_err(|_| KeyError::Public)?;
            held.push((kid, DecodingKey::from_ed_der(&key)));
        }
        Ok(Self { keys: held, validation: validation(AUDIENCE) })
    }

    /// A verifier for keys as the origin publishes them ([`crate::wire::Welcome::keys`]).
    ///
    /// A key that cannot be read, or is one too many, is left out: the node serves on with the
    /// others, and a token of that key is refused with [`TokenError::UnknownKey`].
    #[must_use]
    pub fn from_published(keys: &[(String, String)]) -> Self {
        let mut held: Vec<(String, [u8; 32])> = Vec::new();
        for (kid, key) in keys {
            let fits = (1..=limits::NAME_BYTES).contains(&kid.len())
                && held.len() < limits::TOKEN_KEYS
                && held.iter().all(|(known, _)| known != kid);
            if let (true, Ok(key)) = (fits, decode_public(key)) {
                held.push((kid.clone(), key));
            }
        }
        Self::new(held).unwrap_or_default()
    }

    /// Verifies a token at `now_unix_s` (seconds since 1970, UTC) and returns what it says.
    ///
    /// Room and role are the caller's next question: [`Claims::allow`].
    ///
    /// # Errors
    /// The first reason to refuse it; the signature is checked before any claim is looked at.
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Claims, TokenError> {
        let claims: Claims = self.signed(token, &self.validation)?;
        claims.check(now_unix_s)?;
        Ok(claims)
    }

    /// The claims of any JWT of this verifier's keys, for the audience of `validation`; what they
    /// say is not looked at.
    pub(crate) fn signed<T: DeserializeOwned>(
        &self,
        token: &str,
        validation: &Validation,
    ) -> Result<T, TokenError> {
        if token.len() > limits::TOKEN_BYTES {
            return Err(TokenError::TooLong(token.len()));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|e| header_error(&e))?;
        if header.alg != Algorithm::EdDSA {
            return Err(TokenError::Algorithm);
        }
        let kid = header.kid.as_deref().ok_or(TokenError::NoKeyId)?;
        let (_, key) = self.keys.iter().find(|(k, _)| k == kid).ok_or(TokenError::UnknownKey)?;
        Ok(jsonwebtoken::decode::<T>(token, key, validation).map_err(|e| claims_error(&e))?.claims)
    }
}

impl Default for Verifier {
    /// Knows no key and refuses every token.
    fn default() -> Self {
        Self { keys: Vec::new(), validation: validation(AUDIENCE) }
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(kid, _)| kid)).finish()
    }
}

/// Mints tokens with one private key. Its `Debug` shows the key id alone.
#[derive(Clone)]
pub struct Signer {
    kid: String,
    key: EncodingKey,
    public: [u8; 32],
}

impl Signer {
    /// A signer from an Ed25519 private key in PKCS#8 PEM. Without a `kid` it is derived from the
    /// public key ([`key_id`]).
    ///
    /// # Errors
    /// [`KeyError::Private`] or [`KeyError::Ids`].
    pub fn from_pkcs8_pem(pem: &str, kid: Option<&str>) -> Result<Self, KeyError> {
        let key = SigningKey::from_pkcs8_pem(pem.trim()).map_err(|_| KeyError::Private)?;
        let public = key.verifying_key().to_bytes();
        let kid = kid.map_or_else(|| key_id(&public), str::to_owned);
        if !(1..=limits::NAME_BYTES).contains(&kid.len()) {
            return Err(KeyError::Ids);
        }
        let der = key.to_pkcs8_der().map_err(|_| KeyError::Private)?;
        Ok(Self { kid, key: EncodingKey::from_ed_der(der.as_bytes()), public })
    }

    /// The key id in the header of every token that this signer mints.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key.
    #[must_use]
    pub const fn public(&self) -> [u8; 32] {
        self.public
    }

    /// The key id and the public key in base64url, as in [`crate::wire::Welcome::keys`].
    #[must_use]
    pub fn published(&self) -> (String, String) {
        (self.kid.clone(), encode_public(&self.public))
    }

    /// Mints a token.
    ///
    /// # Errors
    /// [`KeyError::Claims`] when every verifier would refuse these claims at the time of `iat`.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        claims.check(claims.iat.max(claims.nbf.unwrap_or(0))).map_err(KeyError::Claims)?;
        let token = self.sign_for(AUDIENCE, claims)?;
        if token.len() > limits::TOKEN_BYTES {
            return Err(KeyError::Claims(TokenError::TooLong(token.len())));
        }
        Ok(token)
    }

    /// Signs any claims for an audience: a JWT (RFC 7519) with EdDSA.
    pub(crate) fn sign_for<T: Serialize>(
        &self,
        audience: &'static str,
        claims: &T,
    ) -> Result<String, KeyError> {
        #[derive(Serialize)]
        struct Body<'a, T> {
            aud: &'static str,
            #[serde(flatten)]
            claims: &'a T,
        }
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        let body = Body { aud: audience, claims };
        jsonwebtoken::encode(&header, &body, &self.key).map_err(|_| KeyError::Private)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.kid)
    }
}

/// A private key in PKCS#8 PEM from 32 random bytes, as [`Signer::from_pkcs8_pem`] reads it.
#[must_use]
pub fn private_pem(seed: [u8; 32]) -> String {
    let pair = KeypairBytes { secret_key: seed, public_key: None };
    pair.to_pkcs8_pem(pem::LineEnding::LF).expect("a seed of 32 bytes always encodes").to_string()
}

/// The default id of a public key: its first 8 bytes in base64url.
#[must_use]
pub fn key_id(public: &[u8; 32]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&public[..8])
}

/// A public key as text: base64url without padding.
#[must_use]
pub fn encode_public(public: &[u8; 32]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(public)
}

/// A public key from its text.
///
/// # Errors
/// [`KeyError::Public`].
pub fn decode_public(text: &str) -> Result<[u8; 32], KeyError> {
    let mut bytes = [0; 32];
    match BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
        Ok(32) => VerifyingKey::from_bytes(&bytes).map(|_| bytes).map_err(|_| KeyError::Public),
        _ => Err(KeyError::Public),
    }
}

pub(crate) fn validation(audience: &str) -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["aud"]);
    // The library would read its own clock; `Claims::check` is given one.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation
}

fn check_name(field: &'static str, value: &str) -> Result<(), TokenError> {
    let long = value.is_empty() || value.len() > limits::NAME_BYTES;
    if long || value.chars().any(char::is_control) {
        return Err(TokenError::Malformed(field));
    }
    Ok(())
}

/// An unknown algorithm name fails while the header is parsed, so it is told apart by that.
fn header_error(error: &JwtError) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidAlgorithmName
        | ErrorKind::UnsupportedAlgorithm
        | ErrorKind::InvalidAlgorithm
        | ErrorKind::MissingAlgorithm => TokenError::Algorithm,
        _ => TokenError::Malformed("header"),
    }
}

fn claims_error(error: &JwtError) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(_) => TokenError::Audience,
        ErrorKind::InvalidSignature
        | ErrorKind::Signing(_)
        | ErrorKind::Provider(_)
        | ErrorKind::Base64(_) => TokenError::Signature,
        ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
        _ => TokenError::Malformed("claims"),
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
