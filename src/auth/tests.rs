//! Tokens from the edge: what is granted, and why what is not is refused.

use openssl::pkey::{PKey, Private};
use serde_json::json;

use super::*;
use crate::config::Secret;

const SECRET: &str = "Zq8vN3xT6bLw1KfYp0HsRj5DgMuC7aEo";
const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn with_secret() -> AuthConfig {
    AuthConfig { jwt_secret: Some(Secret::new(SECRET)), ..AuthConfig::default() }
}

fn with_pems(private: Option<&PKey<Private>>, public: Option<&PKey<Private>>) -> AuthConfig {
    let private = private.map(|key| String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap());
    AuthConfig {
        private_key_pem: private.map(|pem| Secret::new(&pem)),
        public_key_pem: public.map(|key| key.public_key_to_pem().unwrap()),
        ..AuthConfig::default()
    }
}

fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(openssl::rsa::Rsa::generate(bits).unwrap()).unwrap()
}

fn ec(curve: openssl::nid::Nid) -> PKey<Private> {
    let group = openssl::ec::EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap()
}

fn base64url(bytes: &[u8]) -> String {
    openssl::base64::encode_block(bytes).replace('+', "-").replace('/', "_").replace('=', "")
}

/// A token made by hand: header and claims as they are, HMAC-SHA256 with `key`.
fn token(header: &Value, claims: &str, key: &[u8]) -> String {
    let message = format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.as_bytes()));
    let signature =
        jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(key), Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn hs256(claims: &Value) -> String {
    token(&json!({"alg": "HS256", "typ": "JWT"}), &claims.to_string(), SECRET.as_bytes())
}

/// Verifies good claims with `change` merged over them; `null` removes nothing, it is a value.
fn verify_with(config: &AuthConfig, change: Value) -> Result<Grants, AuthError> {
    let mut claims = json!({"sub": "alice", "exp": NOW + 60});
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    Verifier::new(config).unwrap().verify(&hs256(&claims), at(NOW))
}

fn verify(change: Value) -> Result<Grants, AuthError> {
    verify_with(&with_secret(), change)
}

fn claims(user: &str) -> Claims {
    Claims {
        user: UserId::new(user).unwrap(),
        name: Some("Alice".to_owned()),
        role: Role::Moderator,
        rooms: RoomScope::Rooms(vec![RoomId::new("a").unwrap(), RoomId::new("b").unwrap()]),
        permissions: Some(Overrides { create: Some(true), ..Overrides::default() }),
        ttl: Duration::from_secs(60),
    }
}

#[test]
fn minted_tokens_verify_with_every_kind_of_key() {
    let (rsa, p256, ed) = (rsa(2048), ec(openssl::nid::Nid::X9_62_PRIME256V1), PKey::generate_ed25519().unwrap());
    let mut configs = vec![with_secret()];
    for key in [&rsa, &p256, &ed] {
        configs.push(with_pems(Some(key), Some(key)));
        configs.push(with_pems(Some(key), None));
    }
    for mut config in configs {
        config.issuer = Some("us".to_owned());
        config.audience = vec!["engine".to_owned()];
        let token = Signer::new(&config).unwrap().unwrap().mint(&claims("alice"), at(NOW));
        let verifier = Verifier::new(&config).unwrap();
        let grants = verifier.verify(&token, at(NOW)).unwrap();
        assert_eq!((grants.user().as_str(), grants.name(), grants.role()), ("alice", Some("Alice"), Role::Moderator));
        assert!(grants.may_enter(&RoomId::new("a").unwrap()) && !grants.may_enter(&RoomId::new("c").unwrap()));
        assert!(grants.permissions().create);
        assert_eq!(grants.expires_at(), at(NOW + 60));

        // One bit of the signature, a part less, a part more.
        let broken = match token.strip_suffix('A') {
            Some(rest) => format!("{rest}Q"),
            None => format!("{}A", &token[..token.len() - 1]),
        };
        assert!(matches!(verifier.verify(&broken, at(NOW)), Err(AuthError::Signature | AuthError::Malformed)));
        let unsigned = &token[..token.rfind('.').unwrap()];
        assert_eq!(verifier.verify(unsigned, at(NOW)), Err(AuthError::Malformed));
        assert_eq!(verifier.verify(&format!("{unsigned}."), at(NOW)), Err(AuthError::Signature));
        assert_eq!(verifier.verify(&format!("{token}.x"), at(NOW)), Err(AuthError::Malformed));
    }
    assert!(Signer::new(&with_pems(None, Some(&ed))).unwrap().is_none());
}

#[test]
fn the_token_does_not_choose_the_algorithm() {
    let (rsa_key, other) = (rsa(2048), rsa(2048));
    let hs = Verifier::new(&with_secret()).unwrap();
    let rs = Verifier::new(&with_pems(None, Some(&rsa_key))).unwrap();
    let good = json!({"sub": "alice", "exp": NOW + 60}).to_string();
    let public_pem = rsa_key.public_key_to_pem().unwrap();
    let public_der = rsa_key.public_key_to_der().unwrap();

    let none = format!("{}.{}.", base64url(br#"{"alg":"none"}"#), base64url(good.as_bytes()));
    for verifier in [&hs, &rs] {
        assert_eq!(verifier.verify(&none, at(NOW)), Err(AuthError::Malformed));
    }
    // The public key, which everybody has, taken for an HMAC secret.
    for bytes in [&public_pem, &public_der] {
        let forged = token(&json!({"alg": "HS256"}), &good, bytes);
        assert_eq!(rs.verify(&forged, at(NOW)), Err(AuthError::Algorithm));
        let disguised = token(&json!({"alg": "RS256"}), &good, bytes);
        assert_eq!(rs.verify(&disguised, at(NOW)), Err(AuthError::Signature));
    }
    let signed = |key: &PKey<Private>| {
        Signer::new(&with_pems(Some(key), None)).unwrap().unwrap().mint(&claims("alice"), at(NOW))
    };
    assert_eq!(hs.verify(&signed(&rsa_key), at(NOW)), Err(AuthError::Algorithm));
    assert_eq!(rs.verify(&signed(&other), at(NOW)), Err(AuthError::Signature));
    assert!(rs.verify(&signed(&rsa_key), at(NOW)).is_ok());
    // Of the same family, but not the configured one.
    for alg in ["HS384", "HS512"] {
        assert_eq!(
            hs.verify(&token(&json!({"alg": alg}), &good, SECRET.as_bytes()), at(NOW)),
            Err(AuthError::Algorithm)
        );
    }
    // The key that a token brings along.
    let jwk = json!({"kty": "oct", "k": base64url(b"attacker-attacker-attacker-attac")});
    let header = json!({"alg": "HS256", "jwk": jwk, "jku": "https://evil.example", "x5u": "https://evil.example", "kid": "../../dev/null"});
    assert_eq!(
        hs.verify(&token(&header, &good, b"attacker-attacker-attacker-attac"), at(NOW)),
        Err(AuthError::Signature)
    );
    assert!(hs.verify(&token(&header, &good, SECRET.as_bytes()), at(NOW)).is_ok(), "ignored, not refused");
}

#[test]
fn header_edges() {
    let verifier = Verifier::new(&with_secret()).unwrap();
    let good = json!({"sub": "alice", "exp": NOW + 60}).to_string();
    for crit in [json!(["b64"]), json!(["exp"]), json!([])] {
        let token = token(&json!({"alg": "HS256", "crit": crit}), &good, SECRET.as_bytes());
        assert_eq!(verifier.verify(&token, at(NOW)), Err(AuthError::Critical));
    }
    for text in ["", ".", "..", "...", "a.b.c", "ä.ö.ü", "e30.e30.e30", "eyJhbGciOiJIUzI1NiJ9.", "\0"] {
        assert_eq!(verifier.verify(text, at(NOW)), Err(AuthError::Malformed), "{text}");
    }
    assert_eq!(verifier.verify(&"a".repeat(TOKEN_SIZE_MAX + 1), at(NOW)), Err(AuthError::TooLong));
    // The bound itself: a good token of exactly that size.
    let sized = |padding: usize| {
        let claims = format!(r#"{{"sub":"alice","exp":{},"x":"{}"}}"#, NOW + 60, "x".repeat(padding));
        token(&json!({"alg": "HS256"}), &claims, SECRET.as_bytes())
    };
    let largest = (6_000..6_200).map(sized).rfind(|t| t.len() <= TOKEN_SIZE_MAX).unwrap();
    assert!(largest.len() > TOKEN_SIZE_MAX - 3);
    assert!(verifier.verify(&largest, at(NOW)).is_ok());
    // A claim twice: who checks the first and who uses the second must not differ.
    for twice in [r#""sub":"a","sub":"b","exp":9999999999"#, r#""sub":"a","exp":9999999999,"exp":1"#] {
        let token = token(&json!({"alg": "HS256"}), &format!("{{{twice}}}"), SECRET.as_bytes());
        assert_eq!(verifier.verify(&token, at(NOW)), Err(AuthError::Malformed));
    }
    let deep = format!(r#"{{"sub":"a","exp":9999999999,"name":{}}}"#, "[".repeat(4_000));
    assert_eq!(
        verifier.verify(&token(&json!({"alg": "HS256"}), &deep, SECRET.as_bytes()), at(NOW)),
        Err(AuthError::Malformed)
    );
}

#[test]
fn times() {
    let ok = None;
    let rows = [
        (json!({"exp": NOW + 1}), ok),
        (json!({"exp": NOW - 29}), ok),
        (json!({"exp": NOW - 30}), Some(AuthError::Expired)),
        (json!({"exp": 0}), Some(AuthError::Expired)),
        (json!({"exp": u64::MAX}), Some(AuthError::Claim("exp"))),
        (json!({"exp": i64::MAX as u64}), ok),
        (json!({"exp": -1}), Some(AuthError::Claim("exp"))),
        (json!({"exp": 9999999999.5}), Some(AuthError::Claim("exp"))),
        (json!({"exp": "9999999999"}), Some(AuthError::Claim("exp"))),
        (json!({"exp": null}), Some(AuthError::Claim("exp"))),
        (json!({"nbf": NOW + 30}), ok),
        (json!({"nbf": NOW + 31}), Some(AuthError::NotYetValid)),
        (json!({"nbf": "x"}), Some(AuthError::Claim("nbf"))),
        (json!({"iat": NOW + 30}), ok),
        (json!({"iat": NOW + 31}), Some(AuthError::NotYetValid)),
        (json!({"iat": null}), Some(AuthError::Claim("iat"))),
    ];
    for (change, expected) in rows {
        assert_eq!(verify(change.clone()).err(), expected, "{change}");
    }
    let no_exp = hs256(&json!({"sub": "alice"}));
    assert_eq!(Verifier::new(&with_secret()).unwrap().verify(&no_exp, at(NOW)), Err(AuthError::Claim("exp")));
}

#[test]
fn issuer_and_audience() {
    let open = with_secret();
    let closed = AuthConfig {
        issuer: Some("us".to_owned()),
        audience: vec!["one".to_owned(), "two".to_owned()],
        ..with_secret()
    };
    let rows = [
        (&open, json!({"iss": "them", "aud": "other"}), None),
        (&closed, json!({"iss": "us", "aud": "one"}), None),
        (&closed, json!({"iss": "us", "aud": ["other", "two"]}), None),
        (&closed, json!({"aud": "one"}), Some(AuthError::Issuer)),
        (&closed, json!({"iss": "them", "aud": "one"}), Some(AuthError::Issuer)),
        (&closed, json!({"iss": ["us"], "aud": "one"}), Some(AuthError::Issuer)),
        (&closed, json!({"iss": "us"}), Some(AuthError::Audience)),
        (&closed, json!({"iss": "us", "aud": "on"}), Some(AuthError::Audience)),
        (&closed, json!({"iss": "us", "aud": []}), Some(AuthError::Audience)),
        (&closed, json!({"iss": "us", "aud": [1, {"one": "one"}]}), Some(AuthError::Audience)),
    ];
    for (config, change, expected) in rows {
        assert_eq!(verify_with(config, change.clone()).err(), expected, "{change}");
    }
}

#[test]
fn claims_that_are_wrong_are_named() {
    let rows = [
        (json!({"sub": "sfu"}), "sub"),
        (json!({"sub": ""}), "sub"),
        (json!({"sub": 7}), "sub"),
        (json!({"sub": null}), "sub"),
        (json!({"sub": "x".repeat(129)}), "sub"),
        (json!({"sub": "a\nb"}), "sub"),
        (json!({"role": "root"}), "role"),
        (json!({"role": "Admin"}), "role"),
        (json!({"role": null}), "role"),
        (json!({"name": 1}), "name"),
        (json!({"roomId": null}), "roomId"),
        (json!({"roomId": ""}), "roomId"),
        (json!({"roomId": "a/b"}), "roomId"),
        (json!({"roomId": ["a", "*"]}), "roomId"),
        (json!({"roomId": {"a": 1}}), "roomId"),
        (json!({"permissions": null}), "permissions"),
        (json!({"permissions": []}), "permissions"),
        (json!({"permissions": {"publsh": false}}), "permissions"),
        (json!({"permissions": {"publish": "no"}}), "permissions"),
        (json!({"permissions": {"publishSources": ["kitchen"]}}), "permissions"),
    ];
    for (change, claim) in rows {
        assert_eq!(verify(change.clone()).err(), Some(AuthError::Claim(claim)), "{change}");
    }
}

#[test]
fn names_are_cleaned() {
    let rows = [
        (json!({}), None),
        (json!({"name": null}), None),
        (json!({"name": " \u{7}\n "}), None),
        (json!({"name": "A\u{1b}[31ml\u{0}\u{9b}ice\r\n"}), Some("A[31mlice".to_owned())),
        (json!({"name": "é".repeat(300)}), Some("é".repeat(256))),
    ];
    for (change, expected) in rows {
        assert_eq!(verify(change).unwrap().name().map(str::to_owned), expected);
    }
}

#[test]
fn room_scopes() {
    let rows = [
        (json!({}), [true, true]),
        (json!({"roomId": "*"}), [true, true]),
        (json!({"roomId": "a"}), [true, false]),
        (json!({"roomId": ["a", "b"]}), [true, true]),
        (json!({"roomId": ["b"]}), [false, true]),
        (json!({"roomId": []}), [false, false]),
    ];
    for (change, expected) in rows {
        let grants = verify(change.clone()).unwrap();
        assert_eq!(["a", "b"].map(|room| grants.may_enter(&RoomId::new(room).unwrap())), expected, "{change}");
    }
}

/// The table of the interface, then overrides over it. Columns: publish, subscribe, data, chat, record, moderate, create.
#[test]
fn permissions_matrix() {
    let (y, n) = (true, false);
    let rows = [
        (json!({"role": "admin"}), [y, y, y, y, y, y, y], "cms"),
        (json!({"role": "host"}), [y, y, y, y, y, y, y], "cms"),
        (json!({"role": "moderator"}), [y, y, y, y, y, y, n], "cms"),
        (json!({"role": "participant"}), [y, y, y, y, n, n, n], "cms"),
        (json!({}), [y, y, y, y, n, n, n], "cms"),
        (json!({"role": "viewer"}), [n, y, n, n, n, n, n], ""),
        (json!({"role": "viewer", "permissions": {"publish": true}}), [y, y, n, n, n, n, n], "cms"),
        (json!({"role": "viewer", "permissions": {"publishSources": ["camera"]}}), [n, y, n, n, n, n, n], ""),
        (
            json!({"role": "viewer", "permissions": {"publish": true, "publishSources": ["microphone"]}}),
            [y, y, n, n, n, n, n],
            "m",
        ),
        (json!({"permissions": {"publishSources": ["screen", "camera"]}}), [y, y, y, y, n, n, n], "cs"),
        (json!({"permissions": {"publishSources": []}}), [n, y, y, y, n, n, n], ""),
        (json!({"permissions": {"publish": false, "publishSources": ["screen"]}}), [n, y, y, y, n, n, n], ""),
        (json!({"permissions": {"subscribe": false, "data": false, "chat": false}}), [y, n, n, n, n, n, n], "cms"),
        (json!({"permissions": {"record": true, "moderate": true, "create": true}}), [y, y, y, y, y, y, y], "cms"),
        (json!({"role": "admin", "permissions": {"create": false}}), [y, y, y, y, y, y, n], "cms"),
    ];
    for (change, expected, sources) in rows {
        let p = *verify(change.clone()).unwrap().permissions();
        assert_eq!([p.publish, p.subscribe, p.data, p.chat, p.record, p.moderate, p.create], expected, "{change}");
        for (source, letter) in [(Source::Camera, 'c'), (Source::Microphone, 'm'), (Source::Screen, 's')] {
            assert_eq!(p.may_publish(source), sources.contains(letter), "{change} {source:?}");
        }
    }
    let shown = serde_json::to_value(Permissions::of(Role::Viewer)).unwrap();
    assert_eq!(
        shown,
        json!({"publish": false, "publishSources": [], "subscribe": true, "data": false, "chat": false, "record": false, "moderate": false, "create": false})
    );
}

#[test]
fn roles_are_ordered_by_strength() {
    assert!(Role::Admin > Role::Host && Role::Host > Role::Moderator);
    assert!(Role::Moderator > Role::Participant && Role::Participant > Role::Viewer);
}

#[test]
fn keys_that_cannot_be_used_are_refused() {
    let (small, p384, ed) = (rsa(1024), ec(openssl::nid::Nid::SECP384R1), PKey::generate_ed25519().unwrap());
    let other = PKey::generate_ed25519().unwrap();
    let encrypted =
        ed.private_key_to_pem_pkcs8_passphrase(openssl::symm::Cipher::aes_128_cbc(), b"open sesame").unwrap();
    let encrypted = Secret::new(std::str::from_utf8(&encrypted).unwrap());
    let garbage = |text: &str| AuthConfig { public_key_pem: Some(text.into()), ..AuthConfig::default() };
    let rows = [
        (with_pems(None, Some(&small)), "JWT_PUBLIC_KEY_FILE", "2048"),
        (with_pems(Some(&small), None), "JWT_PRIVATE_KEY_FILE", "2048"),
        (with_pems(None, Some(&p384)), "JWT_PUBLIC_KEY_FILE", "P-256"),
        (with_pems(None, Some(&PKey::generate_x25519().unwrap())), "JWT_PUBLIC_KEY_FILE", "Ed25519"),
        (with_pems(Some(&other), Some(&ed)), "JWT_PRIVATE_KEY_FILE", "does not belong"),
        (garbage("-----BEGIN NOTHING-----"), "JWT_PUBLIC_KEY_FILE", "PEM"),
        (garbage(""), "JWT_PUBLIC_KEY_FILE", "PEM"),
        (
            AuthConfig { private_key_pem: Some(Secret::new("x")), ..AuthConfig::default() },
            "JWT_PRIVATE_KEY_FILE",
            "PEM",
        ),
        (AuthConfig { jwt_secret: Some(Secret::new("short")), ..AuthConfig::default() }, "JWT_SECRET", "32 bytes"),
        (
            AuthConfig { private_key_pem: Some(encrypted), ..AuthConfig::default() },
            "JWT_PRIVATE_KEY_FILE",
            "unencrypted",
        ),
        (AuthConfig::default(), "JWT_SECRET", "missing"),
    ];
    for (config, setting, problem) in rows {
        let error = Verifier::new(&config).unwrap_err();
        assert_eq!(error.setting, setting);
        assert!(error.problem.contains(problem), "{error}");
    }
}

/// A token with anything changed in it is refused, and nothing panics.
#[test]
fn damaged_tokens_are_refused() {
    let verifier = Verifier::new(&with_secret()).unwrap();
    let good = hs256(&json!({"sub": "alice", "exp": NOW + 60}));
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..5_000 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(0..128);
        }
        if let Ok(text) = String::from_utf8(bytes)
            && text != good
        {
            assert!(verifier.verify(&text, at(NOW)).is_err(), "{text}");
        }
    }
}
