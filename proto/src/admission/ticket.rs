//! Waiting tickets: what they say, who may show them, and where.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::limits;
use crate::pass::{PassKey, PassVerifier, check_end};
use crate::token::{KeyError, Signer, TokenError, Verifier};
use crate::wire::{Close, CloseCode, Secret};

pub(crate) const AUDIENCE: &str = "stentor-ticket";

/// What a ticket says: a JWT (RFC 7519) of the relay that issued it, behind the origin's
/// certificate for that relay's key, or of the origin itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The room.
    pub room: String,
    /// Whom it is for: [`bearer`].
    pub sub: String,
    /// When its bearer arrived, by the origin's clock (milliseconds since 1970, UTC).
    pub arrival_ms: u64,
    /// The node at which it is redeemed.
    pub place: String,
    /// Its own name, by which it is redeemed once: 64 bits in hexadecimal.
    pub jti: String,
    /// Issued then (seconds since 1970, UTC).
    pub iat: u64,
    /// Valid until then (seconds since 1970, UTC).
    pub exp: u64,
    /// The node that issued it.
    pub by: String,
    /// Whether its bearer has been counted among those who wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// When its bearer was last sent to another relay (seconds since 1970, UTC); 0 for never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub moved: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Why a ticket is refused. Its bearer is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Not a ticket, not signed by a certified relay, or for another room.
    #[error("the ticket is not good ({0}); come without one")]
    Invalid(TokenError),
    /// Past its end.
    #[error("the ticket has expired; come without one")]
    Expired,
    /// Issued to somebody else.
    #[error("the ticket was issued to somebody else; come without one")]
    Identity,
    /// To be redeemed elsewhere.
    #[error("the ticket is for the relay {0}; go there")]
    Place(String),
}

impl From<TicketError> for Close {
    fn from(error: TicketError) -> Self {
        let code = match &error {
            TicketError::Invalid(_) => CloseCode::TicketInvalid,
            TicketError::Expired => CloseCode::TicketExpired,
            TicketError::Identity => CloseCode::TicketIdentity,
            TicketError::Place(_) => CloseCode::TicketPlace,
        };
        Self::new(code, error.to_string())
    }
}

impl From<TokenError> for TicketError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Expired { .. } => Self::Expired,
            other => Self::Invalid(other),
        }
    }
}

/// Whom a ticket is for: the identity of a token, or else the thumbprint of the secret that an
/// anonymous client made. `None` for a client that has neither: it is given no ticket.
#[must_use]
pub fn bearer(identity: Option<&str>, client_key: Option<&str>) -> Option<String> {
    match (identity, client_key) {
        (Some(identity), _) => Some(format!("sub:{identity}")),
        (None, Some(key)) => thumbprint(key).map(|print| format!("key:{print}")),
        (None, None) => None,
    }
}

/// A client key of 32 random bytes, as a hello shows it.
#[must_use]
pub fn client_key(secret: [u8; 32]) -> Secret {
    Secret(BASE64_URL_SAFE_NO_PAD.encode(secret))
}

/// SHA-256 of a client key (32 bytes as base64url without padding), in the same form; `None` if it
/// is not such a key.
#[must_use]
pub fn thumbprint(client_key: &str) -> Option<String> {
    let mut key = [0; 32];
    match BASE64_URL_SAFE_NO_PAD.decode_slice(client_key, &mut key) {
        Ok(32) => Some(BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(key))),
        _ => None,
    }
}

impl Ticket {
    /// The number that it is redeemed by.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        u64::from_str_radix(&self.jti, 16).ok()
    }

    /// Signs it as a relay, with the origin's certificate before it.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn by_relay(&self, key: &PassKey, certificate: &str) -> Result<String, KeyError> {
        key.sign(AUDIENCE, certificate, self)
    }

    /// Signs it as the origin.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn by_origin(&self, key: &Signer) -> Result<String, KeyError> {
        key.sign_for(AUDIENCE, self)
    }

    /// Whether it is `bearer`'s.
    ///
    /// # Errors
    /// [`TicketError::Identity`].
    pub fn check_bearer(&self, bearer: Option<&str>) -> Result<(), TicketError> {
        if bearer == Some(self.sub.as_str()) { Ok(()) } else { Err(TicketError::Identity) }
    }
}

/// Reads a ticket for `room` at `now_unix_s`, under the origin's keys. Whose it is and where it is
/// redeemed are the caller's next questions.
///
/// # Errors
/// The first reason to refuse it.
pub fn read(
    certificates: &mut PassVerifier,
    origin: &Verifier,
    text: &str,
    room: &str,
    now_unix_s: u64,
) -> Result<Ticket, TicketError> {
    if text.len() > limits::TICKET_BYTES {
        return Err(TokenError::TooLong(text.len()).into());
    }
    let ticket: Ticket = if text.contains('~') {
        let (ticket, relay) = certificates.ticket::<Ticket>(origin, text, now_unix_s)?;
        if ticket.by != relay {
            return Err(TokenError::Malformed("by").into());
        }
        ticket
    } else {
        origin.signed(text, &crate::token::validation(AUDIENCE))?
    };
    check_end(ticket.exp, now_unix_s)?;
    // It is remembered for as long as any ticket may be good, and no longer.
    if ticket.exp > now_unix_s.saturating_add(limits::TICKET_S + limits::TOKEN_LEEWAY_S) {
        return Err(TokenError::Malformed("exp").into());
    }
    let names = [&ticket.place, &ticket.by, &ticket.room];
    if names.iter().any(|name| name.len() > limits::NAME_BYTES) || ticket.number().is_none() {
        return Err(TokenError::Malformed("ticket").into());
    }
    if ticket.room != room {
        return Err(TokenError::Room.into());
    }
    Ok(ticket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::certify;
    use crate::token::private_pem;

    fn signer(seed: u8) -> Signer {
        Signer::from_pkcs8_pem(&private_pem([seed; 32]), None).unwrap()
    }

    fn verifier(seed: u8) -> Verifier {
        let signer = signer(seed);
        Verifier::new([(signer.kid().to_owned(), signer.public())]).unwrap()
    }

    fn ticket() -> Ticket {
        Ticket {
            room: "hall".into(),
            sub: bearer(Some("ann"), None).unwrap(),
            arrival_ms: 1_000_500,
            place: "edge-1".into(),
            jti: format!("{:016x}", u64::MAX),
            iat: 1_000,
            exp: 1_000 + limits::TICKET_S,
            by: "edge-1".into(),
            waits: true,
            moved: 0,
        }
    }

    fn seen(text: &str, room: &str, now: u64) -> Result<Ticket, TicketError> {
        read(&mut PassVerifier::default(), &verifier(1), text, room, now)
    }

    #[test]
    fn a_ticket_of_a_certified_relay_or_of_the_origin_is_read() {
        let key = PassKey::from_seed([7; 32]);
        let certificate = certify(&signer(1), "edge-1", &key.published(), 1_000).unwrap();
        let text = ticket().by_relay(&key, &certificate).unwrap();
        assert!(text.len() <= limits::TICKET_BYTES, "{} bytes", text.len());
        let by_origin = ticket().by_origin(&signer(1)).unwrap();
        for text in [&text, &by_origin] {
            assert_eq!(seen(text, "hall", 1_100), Ok(ticket()));
            assert_eq!(seen(text, "barn", 1_100), Err(TicketError::Invalid(TokenError::Room)));
            let late = 1_000 + limits::TICKET_S + limits::TOKEN_LEEWAY_S;
            assert_eq!(seen(text, "hall", late), Err(TicketError::Expired));
        }
    }

    #[test]
    fn forged_tickets_are_refused() {
        let key = PassKey::from_seed([7; 32]);
        let certificate = certify(&signer(1), "edge-1", &key.published(), 1_000).unwrap();
        let by_another = Ticket { by: "edge-2".into(), ..ticket() };
        let lasting = Ticket { exp: u64::MAX, ..ticket() };
        let uncertified = PassKey::from_seed([8; 32]);
        let pass = crate::pass::Pass {
            sub: "ann".into(),
            room: "hall".into(),
            relay: "edge-1".into(),
            iat: 1_000,
            exp: 2_000,
            anonymous: false,
        };
        for text in [
            by_another.by_relay(&key, &certificate).unwrap(),
            lasting.by_relay(&key, &certificate).unwrap(),
            ticket().by_relay(&uncertified, &certificate).unwrap(),
            ticket().by_origin(&signer(2)).unwrap(),
            // A pass is no ticket, and a certificate neither.
            key.give(&certificate, &pass).unwrap(),
            certificate,
            "~".into(),
            String::new(),
            "x".repeat(limits::TICKET_BYTES + 1),
        ] {
            let error = seen(&text, "hall", 1_100).unwrap_err();
            assert!(matches!(error, TicketError::Invalid(_)), "{error:?}");
            assert_eq!(Close::from(error).code, CloseCode::TicketInvalid);
        }
    }

    #[test]
    fn a_ticket_is_its_bearers_alone() {
        let (secret, other) = (client_key([1; 32]).0, client_key([2; 32]).0);
        let anonymous = bearer(None, Some(&secret));
        let ticket = Ticket { sub: anonymous.clone().unwrap(), ..ticket() };
        assert_eq!(ticket.check_bearer(anonymous.as_deref()), Ok(()));
        for wrong in [bearer(None, Some(&other)), bearer(Some("ann"), None), None] {
            assert_eq!(ticket.check_bearer(wrong.as_deref()), Err(TicketError::Identity));
        }
        assert_eq!(bearer(None, Some("short")), None, "no key, no ticket");
    }
}
