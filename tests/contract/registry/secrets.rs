//! Who is told the user's credentials, and what comes of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Content, Place, all_of, guarded};
use crate::support::web::{Reply, Server};
use crate::support::{assert_error, run};

#[test]
fn tokens_passwords_and_helpers_open_a_registry() {
    let content = Content::new();
    let tokens = Server::start(|asked| match (asked.method.as_str(), asked.header("authorization")) {
        ("GET", None) => Reply::new(200, r#"{"token":"anonymous"}"#),
        ("GET", Some("Basic YW5uOnNlY3JldA==")) => Reply::new(200, r#"{"access_token":"anns"}"#),
        ("POST", _) if asked.body.contains("refresh_token=idt") => {
            Reply::new(200, r#"{"access_token":"fresh"}"#)
        }
        _ => Reply::new(401, r#"{"details":"incorrect username or password"}"#),
    });
    let bearer = format!(
        "Bearer realm=\"http://{}/token\",service=\"the registry\",scope=\"repository:team/image:push,delete\"",
        tokens.address
    );
    let basic = "Basic realm=\"x\"";
    let entry = |address: &str, value: &str| format!(r#"{{"auths":{{"{address}":{value}}}}}"#);
    let table = [
        ("Bearer anonymous", bearer.as_str(), "", true),
        ("Bearer anns", &bearer, r#"{"auth":"YW5uOnNlY3JldA=="}"#, true),
        ("Bearer fresh", &bearer, r#"{"identitytoken":"idt"}"#, true),
        ("Basic YW5uOnNlY3JldA==", basic, r#"{"auth":"YW5uOnNlY3JldA=="}"#, true),
        ("Basic YW5uOnNlY3JldA==", basic, r#"{"auth":"YW5uOndyb25n"}"#, false),
        ("Basic YW5uOnNlY3JldA==", basic, "", false),
        ("Bearer anns", &bearer, r#"{"auth":"YW5uOndyb25n"}"#, false),
        ("Bearer other", &bearer, "", false),
    ];
    for (wanted, challenge, credentials, opens) in table {
        let (server, place) = (guarded(&content, wanted, challenge), Place::new());
        if !credentials.is_empty() {
            place.config(&entry(&server.address, credentials));
        }
        let output = place.pull(&server, ":v1");
        if opens {
            assert!(output.status.success(), "{wanted}: {}", String::from_utf8_lossy(&output.stderr));
        } else {
            let error = assert_error(&output, 5, "denied");
            assert!(!error.to_string().contains("YW5u") && !error.to_string().contains("secret"), "{error}");
        }
    }
    // A token for this image and for reading, whatever the registry wants it for.
    let scopes = tokens.asked();
    assert!(
        scopes
            .iter()
            .filter(|a| a.method == "GET")
            .all(|a| { a.path == "/token?service=the%20registry&scope=repository%3Ateam%2Fimage%3Apull" }),
        "{scopes:?}"
    );
    // A helper: a program that is asked for one server on its stdin.
    let (server, place) = (guarded(&content, "Basic YW5uOnNlY3JldA==", basic), Place::new());
    let helper = place.dir.path().join("docker-credential-test");
    fs::write(&helper, "#!/bin/sh\nread host\necho \"{\\\"ServerURL\\\":\\\"$host\\\",\\\"Username\\\":\\\"ann\\\",\\\"Secret\\\":\\\"secret\\\"}\"\n").unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    place.config(&format!(r#"{{"credHelpers":{{"{}":"test"}}}}"#, server.address));
    let path = format!("{}:{}", place.dir.path().display(), std::env::var("PATH").unwrap());
    let mut pull = place.command(&format!("{}/team/image:v1", server.address), &[]);
    let output = run(pull.env("PATH", path), b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn secrets_stay_with_the_server_they_are_for() {
    let content = Content::new();
    let elsewhere = Server::start({
        let content = content.clone();
        move |asked| content.answer(asked)
    });
    let target = elsewhere.address.clone();
    let server = Server::start({
        let content = content.clone();
        move |asked| match asked.header("authorization") {
            None => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
            Some(_) if asked.path.contains("/blobs/") => {
                Reply::new(307, "").header("Location", format!("http://{target}{}", asked.path))
            }
            Some(_) => content.answer(asked),
        }
    });
    let place = Place::new();
    place.config(&format!(r#"{{"auths":{{"{}":{{"auth":"YW5uOnNlY3JldA=="}}}}}}"#, server.address));
    let output = place.pull(&server, ":v1");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = elsewhere.asked();
    assert!(!told.is_empty() && told.iter().all(|asked| asked.header("authorization").is_none()), "{told:?}");

    // A server that a registry leads to cannot ask who the user is.
    let thief = Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""));
    let target = thief.address.clone();
    let server = Server::start(move |asked| {
        Reply::new(302, "").header("Location", format!("http://{target}{}", asked.path))
    });
    place.config(&format!(
        r#"{{"auths":{{"{}":{{"auth":"YW5uOnNlY3JldA=="}},"{}":{{"auth":"YW5uOnNlY3JldA=="}}}}}}"#,
        server.address, thief.address
    ));
    fs::remove_dir_all(place.layout()).unwrap();
    assert_error(&place.pull(&server, ":v1"), 5, "denied");
    assert!(thief.asked().iter().all(|asked| asked.header("authorization").is_none()));
    // Nor is a password sent in the clear to where a registry says that tokens are.
    let server = guarded(&content, "Bearer x", "Bearer realm=\"http://192.0.2.1/token\"");
    let error = assert_error(&Place::new().pull(&server, ":v1"), 2, "usage");
    assert!(all_of(&error).contains("192.0.2.1"), "{error}");
}

/// Who breaks TLS on the way is told nothing, though the image may be taken in the clear.
#[test]
fn no_secret_is_sent_without_encryption() {
    let content = Content::new();
    let tokens = Server::start(|_| Reply::new(200, r#"{"token":"anonymous"}"#));
    let outside = |server: &Server| server.address.replace("127.0.0.1", "0.0.0.0");
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"x\"", outside(&tokens));
    let pull = |server: &Server, place: &Place| {
        let mut pull = place.command(&format!("{}/team/image:v1", outside(server)), &["--insecure"]);
        run(pull.env("NO_PROXY", "0.0.0.0"), b"")
    };
    let told = |server: &Server| {
        server.asked().iter().any(|asked| {
            let header = asked.header("authorization").unwrap_or_default();
            header.contains("YW5u") || asked.body.contains("idt") || header.contains("anns")
        })
    };
    for credentials in [r#"{"auth":"YW5uOnNlY3JldA=="}"#, r#"{"identitytoken":"idt"}"#] {
        for (wanted, challenge, opens) in [
            ("Basic YW5uOnNlY3JldA==", "Basic realm=\"x\"", false),
            ("Bearer anonymous", realm.as_str(), true),
        ] {
            let (server, place) = (guarded(&content, wanted, challenge), Place::new());
            place.config(&format!(r#"{{"auths":{{"{}":{credentials}}}}}"#, outside(&server)));
            let output = pull(&server, &place);
            assert_eq!(output.status.success(), opens, "{challenge}: {output:?}");
            assert!(!server.asked().is_empty() && !told(&server), "{challenge}: {:?}", server.asked());
            assert!(!told(&tokens), "{:?}", tokens.asked());
        }
    }
}
