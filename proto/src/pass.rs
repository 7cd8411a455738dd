//! Re-home passes: what a relay gives its listeners so that another relay takes them back before
//! newcomers (`docs/PROTOCOL.md` section 3.12).
//!
//! A pass is two JWTs (RFC 7519, EdDSA) joined by `~`: the origin's certificate for the key of the
//! relay that gave the pass, and the relay's word. Whoever knows the origin's keys verifies both, so
//! nobody has to tell the relays of each other.

use std::collections::BTreeMap;
use std::fmt;

use jsonwebtoken::Validation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::token::{
    KeyError, Signer, TokenError, Verifier, decode_public, key_id, private_pem, validation,
};

const CERTIFICATE: &str = "stentor-certificate";
const PASS: &str = "stentor-pass";

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CertificateClaims {
    /// The relay's name.
    sub: String,
    /// Its pass key, as [`crate::token::encode_public`] writes it.
    key: String,
    iat: u64,
    exp: u64,
}

/// What a pass says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// The listener's identity.
    pub sub: String,
    /// The room that it was in.
    pub room: String,
    /// The relay that it was on.
    pub relay: String,
    /// Given then (seconds since 1970, UTC).
    pub iat: u64,
    /// Valid until then (seconds since 1970, UTC).
    pub exp: u64,
    /// Whether the listener had shown no token.
    #[serde(default)]
    pub anonymous: bool,
}

/// Certifies a relay's pass key, at `now_unix_s` for [`limits::CERTIFICATE_S`].
///
/// # Errors
/// [`KeyError::Public`] when `key` is no Ed25519 key in base64url.
pub fn certify(
    origin: &Signer,
    relay: &str,
    key: &str,
    now_unix_s: u64,
) -> Result<String, KeyError> {
    decode_public(key)?;
    let claims = CertificateClaims {
        sub: relay.to_owned(),
        key: key.to_owned(),
        iat: now_unix_s,
        exp: now_unix_s.saturating_add(limits::CERTIFICATE_S),
    };
    origin.sign_for(CERTIFICATE, &claims)
}

/// A relay's key for passes. Its `Debug` shows the key id alone.
#[derive(Clone)]
pub struct PassKey {
    signer: Signer,
}

impl PassKey {
    /// The key from 32 random bytes.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let signer = Signer::from_pkcs8_pem(&private_pem(seed), None)
            .expect("a key made from 32 bytes is an Ed25519 key");
        Self { signer }
    }

    /// The public half as the origin is told it ([`crate::wire::RelayInfo::pass_key`]).
    #[must_use]
    pub fn published(&self) -> String {
        self.signer.published().1
    }

    /// Signs a pass and puts the certificate before it.
    ///
    /// # Errors
    /// When the pass cannot be encoded.
    pub fn give(&self, certificate: &str, pass: &Pass) -> Result<String, KeyError> {
        self.sign(PASS, certificate, pass)
    }

    /// Signs any claims for an audience, behind the certificate.
    pub(crate) fn sign<T: Serialize>(
        &self,
        audience: &'static str,
        certificate: &str,
        claims: &T,
    ) -> Result<String, KeyError> {
        Ok(format!("{certificate}~{}", self.signer.sign_for(audience, claims)?))
    }
}

impl fmt::Debug for PassKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PassKey({})", self.signer.kid())
    }
}

impl PartialEq for PassKey {
    fn eq(&self, other: &Self) -> bool {
        self.signer.public() == other.signer.public()
    }
}

/// Verifies passes. Remembers the certificates that it has verified, for many come with the same.
#[derive(Clone, Debug)]
pub struct PassVerifier {
    certificates: BTreeMap<String, Certified>,
    for_certificates: Validation,
    for_passes: Validation,
    for_tickets: Validation,
}

#[derive(Clone, Debug)]
struct Certified {
    relay: String,
    ends: u64,
    key: Verifier,
}

impl Default for PassVerifier {
    fn default() -> Self {
        Self {
            certificates: BTreeMap::new(),
            for_certificates: validation(CERTIFICATE),
            for_passes: validation(PASS),
            for_tickets: validation(crate::admission::TICKET_AUDIENCE),
        }
    }
}

impl PassVerifier {
    /// Verifies a pass for `room` at `now_unix_s`, under the origin's keys.
    ///
    /// # Errors
    /// The first reason to refuse it. A listener with a pass that is refused is a newcomer, no
    /// more and no less.
    pub fn verify(
        &mut self,
        origin: &Verifier,
        text: &str,
        room: &str,
        now_unix_s: u64,
    ) -> Result<Pass, TokenError> {
        if text.len() > limits::PASS_BYTES {
            return Err(TokenError::TooLong(text.len()));
        }
        let validation = self.for_passes.clone();
        let (pass, relay) = self.word::<Pass>(origin, text, &validation, now_unix_s)?;
        check_end(pass.exp, now_unix_s)?;
        if pass.relay != relay || pass.sub.len() > limits::NAME_BYTES {
            return Err(TokenError::Malformed("pass"));
        }
        if pass.room != room {
            return Err(TokenError::Room);
        }
        Ok(pass)
    }

    /// A ticket behind its certificate, and the relay whose key signed it.
    pub(crate) fn ticket<T: DeserializeOwned>(
        &mut self,
        origin: &Verifier,
        text: &str,
        now_unix_s: u64,
    ) -> Result<(T, String), TokenError> {
        let validation = self.for_tickets.clone();
        self.word(origin, text, &validation, now_unix_s)
    }

    /// What a relay signed behind its certificate, and the relay.
    fn word<T: DeserializeOwned>(
        &mut self,
        origin: &Verifier,
        text: &str,
        validation: &Validation,
        now_unix_s: u64,
    ) -> Result<(T, String), TokenError> {
        let (certificate, word) = text.split_once('~').ok_or(TokenError::Malformed("pass"))?;
        self.certified(origin, certificate, now_unix_s)?;
        let certified = self.certificates.get(certificate).ok_or(TokenError::UnknownKey)?;
        Ok((certified.key.signed(word, validation)?, certified.relay.clone()))
    }

    /// Forgets every certificate: the origin's keys have changed.
    pub fn forget(&mut self) {
        self.certificates.clear();
    }

    fn certified(
        &mut self,
        origin: &Verifier,
        text: &str,
        now_unix_s: u64,
    ) -> Result<(), TokenError> {
        if let Some(known) = self.certificates.get(text) {
            return check_end(known.ends, now_unix_s);
        }
        let claims: CertificateClaims = origin.signed(text, &self.for_certificates)?;
        check_end(claims.exp, now_unix_s)?;
        let public = decode_public(&claims.key).map_err(|_| TokenError::Malformed("key"))?;
        let key =
            Verifier::new([(key_id(&public), public)]).map_err(|_| TokenError::Malformed("key"))?;
        if self.certificates.len() >= limits::CERTIFICATES {
            self.certificates.clear();
        }
        let certified = Certified { relay: claims.sub, ends: claims.exp, key };
        self.certificates.insert(text.to_owned(), certified);
        Ok(())
    }
}

/// Whether something that is good until `exp` is good at `now_unix_s`.
pub(crate) fn check_end(exp: u64, now_unix_s: u64) -> Result<(), TokenError> {
    if now_unix_s >= exp.saturating_add(limits::TOKEN_LEEWAY_S) {
        return Err(TokenError::Expired { ago_s: now_unix_s.saturating_sub(exp) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(seed: u8) -> Signer {
        Signer::from_pkcs8_pem(&private_pem([seed; 32]), None).unwrap()
    }

    fn verifier(seed: u8) -> Verifier {
        let signer = signer(seed);
        Verifier::new([(signer.kid().to_owned(), signer.public())]).unwrap()
    }

    fn pass(relay: &str) -> Pass {
        let (sub, room, relay) = ("ann".to_owned(), "hall".to_owned(), relay.to_owned());
        Pass { sub, room, relay, iat: 1_000, exp: 2_000, anonymous: false }
    }

    #[test]
    fn a_pass_of_a_certified_relay_is_good_everywhere() {
        let key = PassKey::from_seed([7; 32]);
        let certificate = certify(&signer(1), "edge-1", &key.published(), 1_000).unwrap();
        let text = key.give(&certificate, &pass("edge-1")).unwrap();
        assert!(text.len() <= limits::PASS_BYTES, "{} bytes", text.len());
        let mut passes = PassVerifier::default();
        for now in [1_000, 1_900] {
            let seen = passes.verify(&verifier(1), &text, "hall", now);
            assert_eq!(seen, Ok(pass("edge-1")));
        }
        assert_eq!(passes.verify(&verifier(1), &text, "barn", 1_000), Err(TokenError::Room));
        let late = passes.verify(&verifier(1), &text, "hall", 2_000 + limits::TOKEN_LEEWAY_S);
        assert!(matches!(late, Err(TokenError::Expired { .. })));
    }

    #[test]
    fn no_relay_signs_for_another_and_no_key_certifies_itself() {
        let key = PassKey::from_seed([7; 32]);
        let certificate = certify(&signer(1), "edge-1", &key.published(), 1_000).unwrap();
        let mut passes = PassVerifier::default();
        let forged = key.give(&certificate, &pass("edge-2")).unwrap();
        let seen = passes.verify(&verifier(1), &forged, "hall", 1_000);
        assert_eq!(seen, Err(TokenError::Malformed("pass")));
        let own = certify(&signer(2), "edge-1", &key.published(), 1_000).unwrap();
        let forged = key.give(&own, &pass("edge-1")).unwrap();
        let seen = passes.verify(&verifier(1), &forged, "hall", 1_000);
        assert_eq!(seen, Err(TokenError::UnknownKey));
        let other = PassKey::from_seed([8; 32]);
        let forged = other.give(&certificate, &pass("edge-1")).unwrap();
        let seen = passes.verify(&verifier(1), &forged, "hall", 1_000);
        assert_eq!(seen, Err(TokenError::UnknownKey));
        // A listener's token is no certificate, and a certificate no pass.
        let twice = format!("{certificate}~{certificate}");
        assert!(passes.verify(&verifier(1), &twice, "hall", 1_000).is_err());
    }
}
