//! Minting of tokens, for the command line and for whoever embeds an origin.

use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use stentor_proto::token::{ANY_ROOM, Claims, KeyError, Signer, key_id};
use stentor_proto::wire::Role;

/// What a token is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The room; not looked at for a relay, whose token is for any.
    pub room: String,
    /// What the bearer may be.
    pub role: Role,
    /// Who the bearer is.
    pub identity: String,
    /// A name to show.
    pub name: Option<String>,
    /// How long the token is valid.
    pub ttl: Duration,
}

/// Why no token was minted.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The claims or the key are wrong; whoever asks is at fault.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes for the token's own name")]
    Random,
}

/// Mints a token at `now_unix_s` (seconds since 1970, UTC).
///
/// # Errors
/// When the claims would be refused by every verifier.
pub fn mint(signer: &Signer, request: &Request, now_unix_s: u64) -> Result<String, MintError> {
    let mut jti = [0; 32];
    SystemRandom::new().fill(&mut jti).map_err(|_| MintError::Random)?;
    let room = match request.role {
        Role::Relay => ANY_ROOM,
        _ => &request.room,
    };
    let claims = Claims {
        sub: request.identity.clone(),
        room: room.to_owned(),
        role: request.role,
        exp: now_unix_s.saturating_add(request.ttl.as_secs()),
        iat: now_unix_s,
        jti: key_id(&jti),
        nbf: None,
        iss: None,
        name: request.name.clone(),
    };
    Ok(signer.sign(&claims)?)
}

#[cfg(test)]
mod tests {
    use stentor_proto::token::{Verifier, private_pem};

    use super::*;

    #[test]
    fn a_minted_token_verifies_and_no_two_are_the_same() {
        let signer = Signer::from_pkcs8_pem(&private_pem([1; 32]), None).unwrap();
        let verifier = Verifier::new([(signer.kid().to_owned(), signer.public())]).unwrap();
        let mut request = Request {
            room: "r".to_owned(),
            role: Role::Speaker,
            identity: "ann".to_owned(),
            name: None,
            ttl: Duration::from_secs(60),
        };
        let first = mint(&signer, &request, 1_000).unwrap();
        let claims = verifier.verify(&first, 1_010).unwrap();
        assert_eq!((claims.exp, claims.allow("r", Role::Speaker)), (1_060, Ok(())));
        assert_ne!(first, mint(&signer, &request, 1_000).unwrap());
        request.role = Role::Relay;
        let claims = verifier.verify(&mint(&signer, &request, 1_000).unwrap(), 1_000).unwrap();
        assert_eq!(claims.room, ANY_ROOM);
        request.identity = String::new();
        assert!(mint(&signer, &request, 1_000).is_err());
    }
}
