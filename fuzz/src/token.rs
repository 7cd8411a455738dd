//! The target for tokens and waiting tickets.

use std::sync::LazyLock;

use stentor_proto::admission::{self, Ticket, TicketError};
use stentor_proto::limits;
use stentor_proto::pass::{PassKey, PassVerifier, certify};
use stentor_proto::token::{Claims, Signer, TokenError, Verifier, private_pem};
use stentor_proto::wire::Role;

static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    Signer::from_pkcs8_pem(&private_pem([1; 32]), None).expect("any seed of 32 bytes is a key")
});
static VERIFIER: LazyLock<Verifier> =
    LazyLock::new(|| Verifier::from_published(&[SIGNER.published()]));

const NOW: u64 = 1_700_000_000;

/// A token: any text is refused that the signer did not mint, and none makes a verifier panic. One
/// that is minted verifies until it ends, and no longer once one of its bytes is another.
pub fn token(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    assert!(VERIFIER.verify(&text, NOW).is_err(), "a token that nobody minted");
    let claims = Claims {
        sub: text.chars().take(40).collect(),
        room: "hall".into(),
        role: Role::Listener,
        exp: NOW + 60,
        iat: NOW,
        jti: "1".into(),
        nbf: None,
        iss: None,
        name: None,
    };
    let Ok(token) = SIGNER.sign(&claims) else { return };
    assert_eq!(VERIFIER.verify(&token, NOW).as_ref(), Ok(&claims));
    let end = claims.exp + limits::TOKEN_LEEWAY_S;
    let over = VERIFIER.verify(&token, end);
    assert!(matches!(over, Err(TokenError::Expired { .. })), "{over:?}");
    let [at, other, ..] = *data else { return };
    let at = usize::from(at) * token.len() / 256;
    let mut forged = token.clone().into_bytes();
    forged[at] = other & 0x7f;
    // The last letter of base64 has bits that say nothing; a lenient reader would pass them over.
    if let Ok(forged) = String::from_utf8(forged)
        && forged != token
    {
        assert!(VERIFIER.verify(&forged, NOW).is_err(), "a forged token passes");
    }
    ticket(data);
}

/// A waiting ticket: as a token, behind the certificate of a relay and without one.
fn ticket(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = |text: &str, now| {
        admission::read(&mut PassVerifier::default(), &VERIFIER, text, "hall", now)
    };
    assert!(read(&text, NOW).is_err(), "a ticket that nobody issued");
    let key = PassKey::from_seed([7; 32]);
    let Ok(certificate) = certify(&SIGNER, "edge-1", &key.published(), NOW) else { return };
    let [at, other, ..] = *data else { return };
    let ticket = Ticket {
        room: "hall".into(),
        sub: text.chars().take(40).collect(),
        arrival_ms: NOW * 1_000 + u64::from(at),
        place: "edge-1".into(),
        jti: format!("{other:016x}"),
        iat: NOW,
        exp: NOW + limits::TICKET_S,
        by: "edge-1".into(),
        waits: at % 2 == 0,
        moved: u64::from(other % 2),
    };
    let signed =
        if at % 3 == 0 { ticket.by_origin(&SIGNER) } else { ticket.by_relay(&key, &certificate) };
    let Ok(signed) = signed else { return };
    assert_eq!(read(&signed, NOW).as_ref(), Ok(&ticket));
    let late = read(&signed, ticket.exp + limits::TOKEN_LEEWAY_S);
    assert_eq!(late, Err(TicketError::Expired));
    let mut forged = signed.clone().into_bytes();
    forged[usize::from(at) * signed.len() / 256] = other & 0x7f;
    if let Ok(forged) = String::from_utf8(forged)
        && forged != signed
    {
        assert!(read(&forged, NOW).is_err(), "a forged ticket passes");
    }
}
