//! What the audit log says.

use std::path::Path;

use server::audit::verify;

use crate::broker::Broker;
use crate::client::{Client, Options};
use crate::eventually;

fn text(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("audit.log")).unwrap()
}

/// Waits until the log holds this.
async fn says(broker: &Broker, what: &str) {
    eventually(what, async || text(broker.directory()).contains(what).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_and_changes_are_in_the_audit_log_and_passwords_are_not() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_owned();
    let document = r#"{
        "users": [{"name": "u", "password": "taint-right", "tags": "monitoring"}],
        "vhosts": [{"name": "/"}],
        "permissions": [{"user": "u", "vhost": "/", "configure": "c", "write": "w", "read": "r"}],
        "policies": [{"vhost": "/", "name": "p", "pattern": "^x", "definition": {"max-length": 3}}],
        "queues": [{"vhost": "/", "name": "of no interest", "durable": true}]
    }"#;
    std::fs::write(&path, document).unwrap();
    let broker = Broker::start_with(|config| config.definitions = Some(path.clone())).await;
    let login = |password: &str| Options {
        user: "u".to_owned(),
        password: password.to_owned(),
        ..Options::default()
    };
    Client::connect_with(broker.address, login("taint-right")).await;
    for number in 0..10 {
        let mut client = Client::dial(broker.address).await;
        client.login(Options { user: format!("nobody {number}\r\n"), ..login("taint-wrong") }).await;
        client.connection_closed().await;
    }
    says(&broker, r#""event":"login","user":"u","peer":"127.0.0.1","times":1"#).await;
    std::fs::write(&path, document.replace(r#""write": "w""#, r#""write": "other""#)).unwrap();
    broker.reload.reload();
    says(&broker, r#""write":"other""#).await;

    let directory = broker.stop().await;
    let log = text(directory.path());
    for said in [
        r#""event":"change","change":{"user_put":{"name":"u","tags":["monitoring"]}}"#,
        r#"{"permissions_set":{"permissions":{"configure":"c","read":"r","write":"w"},"user":"u","vhost":"/"}}"#,
        r#""policy_put""#,
        r#""event":"login refused","user":"nobody 0\\r\\n","peer":"127.0.0.1","times":1"#,
        r#""event":"login refused","user":"nobody 9\\r\\n","peer":"127.0.0.1","times":9"#,
    ] {
        assert!(log.contains(said), "{said} is not in\n{log}");
    }
    for unsaid in ["taint", "argon2", "of no interest"] {
        assert!(!log.contains(unsaid), "{unsaid} is in\n{log}");
    }
    let lines = verify(directory.path()).unwrap().lines;
    assert_eq!(lines, log.lines().count() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_goes_on_after_a_restart_and_whoever_changes_a_line_is_noticed() {
    let broker = Broker::start().await;
    Client::connect(broker.address).await;
    let broker = broker.restart().await;
    Client::connect(broker.address).await;
    let directory = broker.stop().await;
    let path = directory.path().join("audit.log");
    assert_eq!(verify(directory.path()).unwrap().lines, 4, "guest, its permissions, two logins");
    let log = text(directory.path());
    std::fs::write(&path, log.replacen("127.0.0.1", "127.0.0.2", 1)).unwrap();
    let error = verify(directory.path()).unwrap_err().to_string();
    assert!(error.ends_with("audit.log, line 3: this line was changed"), "{error}");
}
