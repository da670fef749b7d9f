use super::*;

const ID: &str = "0a1b2c3d-0405-0607-0809-0a0b0c0d0e0f";
const BYTES: [u8; 16] = [0x0a, 0x1b, 0x2c, 0x3d, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

fn wanted(text: &str) -> Result<Wanted, Wrong> {
    Body::parse(text).and_then(|body| body.wanted())
}

fn id(text: &str) -> Result<[u8; 16], Wrong> {
    Body::parse(text).and_then(|body| body.user_id())
}

#[test]
fn a_whole_body() {
    let text = format!(
        r#"{{"userId": "{ID}", "email": "ann@example.com", "username": "ann", "metadata": {{"n": 1e400}}, "x": [1]}}"#
    );
    assert_eq!(id(&text), Ok(BYTES));
    assert_eq!(
        wanted(&text),
        Ok(Wanted {
            email: "ann@example.com".into(),
            username: Some("ann".into()),
            metadata: Some(r#"{"n": 1e400}"#.into()),
        })
    );
}

#[test]
fn null_and_an_empty_username_count_as_absent() {
    let text = r#"{"email": "a@b", "username": null, "metadata": null}"#;
    let plain = Wanted { email: "a@b".into(), username: None, metadata: None };
    assert_eq!(wanted(text), Ok(plain.clone()));
    assert_eq!(wanted(r#"{"email": "a@b", "username": ""}"#), Ok(plain));
    assert_eq!(wanted(r#"{"email": null}"#), Err(Wrong::Missing { key: "email" }));
    assert_eq!(id(r#"{"userId": null}"#), Err(Wrong::Missing { key: "userId" }));
}

#[test]
fn what_is_wrong_is_named() {
    for (text, found) in [
        ("[]", "an array"),
        ("\"x\"", "a string"),
        ("1", "a number"),
        ("true", "a boolean"),
        ("null", "null"),
        ("", "something else"),
    ] {
        assert_eq!(Body::parse(text).err(), Some(Wrong::NotAnObject { found }));
    }
    assert_eq!(id(r#"{"userId": "x\n"}"#), Err(Wrong::NotAUuid { found: "x\u{fffd}".into() }));
    assert_eq!(
        id(r#"{"userId": 5}"#),
        Err(Wrong::WrongType { key: "userId", found: "a number", wanted: "a string with a uuid" })
    );
    assert_eq!(
        wanted(r#"{"email": "a@b", "metadata": []}"#),
        Err(Wrong::WrongType { key: "metadata", found: "an array", wanted: "an object" })
    );
    assert_eq!(
        wanted(r#"{"email": {}}"#),
        Err(Wrong::WrongType { key: "email", found: "an object", wanted: "a string" })
    );
}

#[test]
fn depth_and_size_of_what_is_not_looked_at_do_not_matter() {
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let text = format!(
        r#"{{"userId": "{ID}", "email": "a@b", "metadata": {{"deep": {deep}}}, "x": {deep}}}"#
    );
    assert_eq!(id(&text), Ok(BYTES));
    assert!(wanted(&text).is_ok_and(|w| w.metadata.is_some()));
}

#[test]
fn the_subject_of_a_token() {
    assert_eq!(subject(&format!(r#"{{"role": "authenticated", "sub": "{ID}"}}"#)), Some(BYTES));
    for claims in [
        "",
        "{}",
        "[]",
        "{",
        r#"{"sub": null}"#,
        r#"{"sub": 1}"#,
        r#"{"sub": "me"}"#,
        &format!("[\"{ID}\"]"),
    ] {
        assert_eq!(subject(claims), None, "{claims}");
    }
}

#[test]
fn uuids() {
    assert_eq!(parse_uuid(ID), Some(BYTES));
    assert_eq!(parse_uuid(&ID.to_uppercase()), Some(BYTES));
    assert_eq!(parse_uuid(&ID.replace('-', "")), Some(BYTES));
    for text in [
        "",
        "x",
        &ID[1..],
        &format!("{ID}0"),
        &ID.replace('-', "+"),
        &ID.replace('a', "g"),
        &ID.replace("0a1b", "äöü"),
    ] {
        assert_eq!(parse_uuid(text), None, "{text}");
    }
}

#[test]
fn who_syncs_whom() {
    let nobody = Role::default();
    assert_eq!(caller(nobody), Caller::User);
    let authenticated = Role { is_authenticated: true, ..nobody };
    assert_eq!(caller(authenticated), Caller::User);
    assert_eq!(caller(Role { inherits_service_role: true, ..authenticated }), Caller::User);
    assert_eq!(caller(Role { inherits_service_role: true, ..nobody }), Caller::Operator);
    for operator in [
        Role { is_superuser: true, ..authenticated },
        Role { is_installer: true, ..authenticated },
        Role { is_service_role: true, ..authenticated },
    ] {
        assert_eq!(caller(operator), Caller::Operator);
    }
}

#[test]
fn what_an_error_repeats_is_short_and_plain() {
    assert_eq!(shown("a\nb\u{202e}c"), "a\u{fffd}b\u{fffd}c");
    assert_eq!(shown(&"x".repeat(1_000)).chars().count(), SHOWN + 3);
}

mod fuzz {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Any JSON, with the keys that matter more often than by chance.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
            Just(json!(ID)),
            Just(json!("ann@example.com")),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            let key = prop_oneof![
                Just("userId".to_owned()),
                Just("email".to_owned()),
                Just("username".to_owned()),
                Just("metadata".to_owned()),
                Just("sub".to_owned()),
                ".{0,8}",
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(key, inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn check(text: &str) {
        let _ = subject(text);
        let Ok(body) = Body::parse(text) else {
            return;
        };
        let _ = body.user_id();
        let Ok(wanted) = body.wanted() else {
            return;
        };
        // What was let through is what the text says.
        let value: Value = serde_json::from_str(text).expect("JSON that was taken apart");
        assert_eq!(value["email"], json!(wanted.email));
        assert_eq!(
            value["username"].as_str().filter(|name| !name.is_empty()),
            wanted.username.as_deref()
        );
        if let Some(metadata) = &wanted.metadata {
            assert!(value["metadata"].is_object());
            let again: Value = serde_json::from_str(metadata).expect("an object");
            assert_eq!(again, value["metadata"]);
        }
        assert!(shown(&wanted.email).chars().all(|c| !c.is_control()));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: std::env::var("ONAGUI_SYNC_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000),
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn any_json_is_taken_or_refused(value in any_json()) {
            check(&value.to_string());
        }

        #[test]
        fn any_text_is_taken_or_refused(text in ".{0,200}") {
            check(&text);
            let _ = parse_uuid(&text);
            prop_assert!(shown(&text).chars().count() <= SHOWN + 3);
        }

        #[test]
        fn a_broken_body_is_no_trouble(value in any_json(), cut in any::<prop::sample::Index>()) {
            let text = value.to_string();
            let at = cut.index(text.chars().count().max(1));
            check(&text.chars().take(at).collect::<String>());
        }

        #[test]
        fn a_name_fits_and_keeps_its_digits(name in ".{0,300}", id in any::<[u8; 16]>(), longest in 0usize..300) {
            for candidate in crate::names::candidates(&name, &id, longest) {
                prop_assert!(candidate.chars().count() <= longest);
            }
        }
    }
}
