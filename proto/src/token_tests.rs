//! Tokens: golden vector, every reason to refuse, and hostile bytes.

use proptest::prelude::*;

use jsonwebtoken::EncodingKey;

use super::*;

const NOW: u64 = 1_800_000_000;

fn signer() -> Signer {
    Signer::from_pkcs8_pem(&private_pem([7; 32]), Some("k1")).unwrap()
}

fn verifier() -> Verifier {
    Verifier::new([("k1".to_owned(), signer().public())]).unwrap()
}

fn claims() -> Claims {
    Claims {
        sub: "ann".to_owned(),
        room: "town-hall".to_owned(),
        role: Role::Listener,
        exp: NOW + 3_600,
        iat: NOW,
        jti: "t-1".to_owned(),
        nbf: None,
        iss: None,
        name: Some("Ann".to_owned()),
    }
}

fn relay_claims() -> Claims {
    Claims { room: ANY_ROOM.to_owned(), role: Role::Relay, ..claims() }
}

/// A token with this header and body, signed with the right key.
fn forge(header: &str, body: &str) -> String {
    use ed25519_dalek::Signer as _;
    let text = format!(
        "{}.{}",
        BASE64_URL_SAFE_NO_PAD.encode(header),
        BASE64_URL_SAFE_NO_PAD.encode(body)
    );
    let signature = SigningKey::from_bytes(&[7; 32]).sign(text.as_bytes());
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

const HEADER: &str = r#"{"typ":"JWT","alg":"EdDSA","kid":"k1"}"#;

fn body(patch: &[(&str, serde_json::Value)]) -> String {
    let mut value = serde_json::to_value(claims()).unwrap();
    value["aud"] = AUDIENCE.into();
    for (key, new) in patch {
        value[*key] = new.clone();
    }
    value.to_string()
}

#[test]
fn golden_vector() {
    let vector: serde_json::Value =
        serde_json::from_str(include_str!("../vectors/token.json")).unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    let public = decode_public(&text(&vector["public"])).unwrap();
    let verifier = Verifier::new([(text(&vector["kid"]), public)]).unwrap();
    for case in vector["valid"].as_array().unwrap() {
        let expected: Claims = serde_json::from_value(case["claims"].clone()).unwrap();
        let token = text(&case["token"]);
        let now = case["now_unix_s"].as_u64().unwrap();
        assert_eq!(verifier.verify(&token, now).unwrap(), expected);
        let signer =
            Signer::from_pkcs8_pem(&text(&vector["private_pem"]), Some(&text(&vector["kid"])));
        assert_eq!(signer.unwrap().sign(&expected).unwrap(), token, "EdDSA is deterministic");
    }
    for case in vector["invalid"].as_array().unwrap() {
        let now = case["now_unix_s"].as_u64().unwrap();
        let error = verifier.verify(&text(&case["token"]), now).unwrap_err();
        assert_eq!(error.code().name(), text(&case["close"]), "{}", case["name"]);
    }
}

#[test]
fn signs_and_verifies() {
    for claims in [claims(), relay_claims()] {
        let token = signer().sign(&claims).unwrap();
        assert_eq!(verifier().verify(&token, NOW + 10), Ok(claims));
    }
    assert_eq!(signer().published().0, "k1");
    assert_eq!(decode_public(&signer().published().1), Ok(signer().public()));
}

#[test]
fn time_is_the_callers() {
    let token = signer().sign(&claims()).unwrap();
    let end = NOW + 3_600;
    let leeway = limits::TOKEN_LEEWAY_S;
    assert!(verifier().verify(&token, end + leeway - 1).is_ok());
    let ago_s = leeway;
    assert_eq!(verifier().verify(&token, end + leeway), Err(TokenError::Expired { ago_s }));
    assert!(verifier().verify(&token, NOW - leeway).is_ok());
    let early = verifier().verify(&token, NOW - leeway - 1);
    assert_eq!(early, Err(TokenError::NotYetValid { in_s: leeway + 1 }));
    let later = Claims { nbf: Some(NOW + 600), ..claims() };
    let token = signer().sign(&later).unwrap();
    assert_eq!(verifier().verify(&token, NOW), Err(TokenError::NotYetValid { in_s: 600 }));
}

#[test]
fn room_and_role_must_match() {
    let held = claims();
    assert_eq!(held.allow("town-hall", Role::Listener), Ok(()));
    assert_eq!(held.allow("other", Role::Listener), Err(TokenError::Room));
    let error = held.allow("town-hall", Role::Host).unwrap_err();
    assert_eq!(error.code(), CloseCode::TokenRole);
    assert_eq!(Close::from(TokenError::Room).code, CloseCode::TokenRoom);
    assert_eq!(relay_claims().allow("", Role::Relay), Ok(()));
    let host = Claims { role: Role::Host, ..claims() };
    assert_eq!(host.allow("town-hall", Role::Listener), Ok(()), "who speaks may listen");
    assert!(host.allow("town-hall", Role::Speaker).is_err());
    assert!(relay_claims().allow("town-hall", Role::Listener).is_err());
}

#[test]
fn a_star_is_for_relays_only() {
    for (room, role) in [(ANY_ROOM, Role::Listener), ("town-hall", Role::Relay)] {
        let claims = Claims { room: room.to_owned(), role, ..claims() };
        assert!(matches!(signer().sign(&claims), Err(KeyError::Claims(_))));
    }
    let token = forge(HEADER, &body(&[("room", "*".into())]));
    let refused = verifier().verify(&token, NOW).unwrap_err();
    assert!(matches!(refused, TokenError::Malformed(_)));
}

#[test]
fn wrong_keys_algorithms_and_audiences_are_refused() {
    let verify = |token: &str| verifier().verify(token, NOW);
    assert!(verify(&forge(HEADER, &body(&[]))).is_ok(), "the forge works");

    let other = Signer::from_pkcs8_pem(&private_pem([8; 32]), Some("k1")).unwrap();
    let token = other.sign(&claims()).unwrap();
    assert_eq!(verify(&token), Err(TokenError::Signature));
    let other = Signer::from_pkcs8_pem(&private_pem([8; 32]), None).unwrap();
    let token = other.sign(&claims()).unwrap();
    assert_eq!(verify(&token), Err(TokenError::UnknownKey));

    let token = forge(r#"{"alg":"EdDSA"}"#, &body(&[]));
    assert_eq!(verify(&token), Err(TokenError::NoKeyId));
    for alg in ["none", "None", "HS256", "RS256", "ES256"] {
        let header = format!(r#"{{"alg":"{alg}","kid":"k1"}}"#);
        let token = forge(&header, &body(&[]));
        let error = verify(&token).unwrap_err();
        assert_eq!(error.code(), CloseCode::TokenInvalid, "{alg}");
    }
    for aud in [serde_json::json!("other"), serde_json::Value::Null] {
        let token = forge(HEADER, &body(&[("aud", aud)]));
        assert_eq!(verify(&token), Err(TokenError::Audience));
    }
}

#[test]
fn hs256_with_the_public_key_as_its_secret_is_refused() {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("k1".to_owned());
    let secret = EncodingKey::from_secret(&signer().public());
    let body: serde_json::Value = serde_json::from_str(&body(&[])).unwrap();
    let token = jsonwebtoken::encode(&header, &body, &secret).unwrap();
    assert_eq!(verifier().verify(&token, NOW), Err(TokenError::Algorithm));
}

#[test]
fn oversized_and_broken_tokens_are_refused_without_being_repeated() {
    let secret = "s".repeat(limits::TOKEN_BYTES + 1);
    assert!(matches!(verifier().verify(&secret, NOW), Err(TokenError::TooLong(_))));
    let token = signer().sign(&claims()).unwrap();
    let (unsigned, _) = token.rsplit_once('.').unwrap();
    for bad in ["", ".", "..", "a.b.c", "a.b.c.d", unsigned, &format!("{unsigned}.")] {
        let error = verifier().verify(bad, NOW).unwrap_err();
        assert_eq!(error.code(), CloseCode::TokenInvalid, "{bad}");
        assert!(bad.len() < 5 || !error.to_string().contains(bad));
    }
    for (field, value) in [
        ("sub", serde_json::json!("")),
        ("sub", serde_json::json!("a\nb")),
        ("sub", serde_json::json!("x".repeat(limits::NAME_BYTES + 1))),
        ("role", serde_json::json!("emperor")),
        ("exp", serde_json::json!(-1)),
        ("exp", serde_json::json!("soon")),
    ] {
        let error = verifier().verify(&forge(HEADER, &body(&[(field, value)])), NOW);
        assert!(matches!(error, Err(TokenError::Malformed(_))), "{field}: {error:?}");
    }
    let far = Claims { exp: u64::MAX, ..claims() };
    let token = signer().sign(&far).unwrap();
    assert!(verifier().verify(&token, u64::MAX - limits::TOKEN_LEEWAY_S - 1).is_ok());
}

#[test]
fn published_keys_that_cannot_be_read_are_left_out() {
    let good = signer().published();
    let twice = (good.0.clone(), encode_public(&[1; 32]));
    let published = [("bad".to_owned(), "?".to_owned()), good, twice];
    let token = signer().sign(&claims()).unwrap();
    assert!(Verifier::from_published(&published).verify(&token, NOW).is_ok());
    let many: Vec<_> = (0..100).map(|i| (i.to_string(), signer().published().1)).collect();
    assert_eq!(Verifier::from_published(&many).verify(&token, NOW), Err(TokenError::UnknownKey));
    assert_eq!(Verifier::default().verify(&token, NOW), Err(TokenError::UnknownKey));
}

#[test]
fn keys_are_bounded_and_checked() {
    let key = signer().public();
    let many = (0..=limits::TOKEN_KEYS).map(|i| (i.to_string(), key));
    assert_eq!(Verifier::new(many).unwrap_err(), KeyError::Ids);
    let twice = [("a".to_owned(), key), ("a".to_owned(), key)];
    assert_eq!(Verifier::new(twice).unwrap_err(), KeyError::Ids);
    assert_eq!(decode_public("short"), Err(KeyError::Public));
    assert_eq!(decode_public(&"é".repeat(40)), Err(KeyError::Public));
    assert_eq!(Signer::from_pkcs8_pem("no", None).unwrap_err(), KeyError::Private);
    let openssl = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    assert!(Signer::from_pkcs8_pem(openssl, None).is_ok());
    assert_eq!(format!("{:?}", signer()), "Signer(k1)");
}

proptest! {
    #[test]
    fn no_bytes_panic(token in ".{0,200}") {
        prop_assert!(verifier().verify(&token, NOW).is_err());
    }

    #[test]
    fn one_changed_byte_is_refused(at in 0usize..300, byte in 33u8..127) {
        let token = signer().sign(&claims()).unwrap();
        let mut bytes = token.into_bytes();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assert!(verifier().verify(&changed, NOW).is_err());
    }
}
