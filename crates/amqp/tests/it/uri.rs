//! Connection URIs, with RabbitMQ's own examples among them.

use amqp::uri::Uri;
use expect_test::expect;

fn show(text: &str) -> String {
    match Uri::parse(text) {
        Ok(uri) => {
            let Uri { host, port, credentials, vhost, heartbeat, frame_max, channel_max } = uri;
            let (user, password) = (credentials.user, credentials.password);
            let tuning = format!("{heartbeat:?} {frame_max:?} {channel_max:?}").replace("None", "-");
            format!("{text} → {user} {password} {host} {port} '{vhost}' {tuning}\n")
        }
        Err(error) => format!("{text} → error: {error}\n"),
    }
}

#[test]
fn uris_read_as_rabbitmq_reads_them() {
    let texts = [
        "amqp://",
        "amqp://host",
        "amqp://user:pass@host:10000/vhost",
        "amqp://user%61:%61pass@ho%61st:10000/v%2fhost",
        "amqp://user@host",
        "amqp://:@host/",
        "amqp://host/%2f",
        "amqp://[::1]:5673/v",
        "amqp://[::1]",
        "AMQP://host?heartbeat=30&frame_max=8192&channel_max=5&other=1",
    ];
    expect![[r#"
        amqp:// → guest guest localhost 5672 '/' - - -
        amqp://host → guest guest host 5672 '/' - - -
        amqp://user:pass@host:10000/vhost → user pass host 10000 'vhost' - - -
        amqp://user%61:%61pass@ho%61st:10000/v%2fhost → usera apass hoast 10000 'v/host' - - -
        amqp://user@host → user guest host 5672 '/' - - -
        amqp://:@host/ →   host 5672 '' - - -
        amqp://host/%2f → guest guest host 5672 '/' - - -
        amqp://[::1]:5673/v → guest guest ::1 5673 'v' - - -
        amqp://[::1] → guest guest ::1 5672 '/' - - -
        AMQP://host?heartbeat=30&frame_max=8192&channel_max=5&other=1 → guest guest host 5672 '/' Some(30) Some(8192) Some(5)
    "#]].assert_eq(&texts.map(show).concat());
}

#[test]
fn what_is_no_uri_says_why() {
    let texts = [
        "host",
        "amqps://host",
        "http://host",
        "amqp://host:port",
        "amqp://host:70000",
        "amqp://[::1",
        "amqp://[::1]x",
        "amqp://host/%2",
        "amqp://host/%zz",
        "amqp://host/%ff",
        "amqp://host?heartbeat=soon",
    ];
    expect![[r#"
        host → error: expected amqp://host
        amqps://host → error: amqps (TLS) is not supported yet, expected amqp://
        http://host → error: unknown scheme 'http', expected amqp://
        amqp://host:port → error: port is 'port', expected a number in its range
        amqp://host:70000 → error: port is '70000', expected a number in its range
        amqp://[::1 → error: expected ] behind the IPv6 address
        amqp://[::1]x → error: expected a port behind the IPv6 address, found 'x'
        amqp://host/%2 → error: '%2' has a % without two hexadecimal digits
        amqp://host/%zz → error: '%zz' has a % without two hexadecimal digits
        amqp://host/%ff → error: '%ff' does not decode to UTF-8
        amqp://host?heartbeat=soon → error: heartbeat is 'soon', expected a number in its range
    "#]]
    .assert_eq(&texts.map(show).concat());
}
