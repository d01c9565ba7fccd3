//! The client against servers that say only what a test makes them say.

use std::io::Read as _;
use std::net::TcpListener;

use amqp::method::connection;
use amqp::table::Table;

use super::*;

const HEARTBEAT: &[u8] = &[8, 0, 0, 0, 0, 0, 0, 0xCE];

/// What a server says until the virtual host is open, without waiting for the answers.
fn greeting(heartbeat: u16) -> Vec<u8> {
    let start = connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties: Table::EMPTY,
        mechanisms: b"PLAIN",
        locales: b"en_US",
    };
    let tune = connection::Tune { channel_max: 1, frame_max: 4096, heartbeat };
    let mut out = Vec::new();
    frame::method(&mut out, 0, &Method::ConnectionStart(start));
    frame::method(&mut out, 0, &Method::ConnectionTune(tune));
    frame::method(&mut out, 0, &Method::ConnectionOpenOk(connection::OpenOk {}));
    out
}

fn listen() -> (TcpListener, Uri) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = Uri::parse(&format!("amqp://{}", listener.local_addr().unwrap())).unwrap();
    (listener, uri)
}

/// Reads until what was read ends with `end`.
fn read_until(stream: &mut TcpStream, end: &[u8]) {
    let mut heard = Vec::new();
    let mut byte = [0];
    while !heard.ends_with(end) {
        stream.read_exact(&mut byte).unwrap();
        heard.extend_from_slice(&byte);
    }
}

#[test]
fn who_waits_gives_signs_of_life() {
    let (listener, uri) = listen();
    let server = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(&greeting(1)).unwrap();
        for _ in 0..2 {
            read_until(&mut stream, HEARTBEAT);
            stream.write_all(HEARTBEAT).unwrap();
        }
        let close = connection::Close { reply_code: 320, reply_text: "enough", class_id: 0, method_id: 0 };
        let mut out = Vec::new();
        frame::method(&mut out, 0, &Method::ConnectionClose(close));
        stream.write_all(&out).unwrap();
        let mut close_ok = Vec::new();
        frame::method(&mut close_ok, 0, &Method::ConnectionCloseOk(connection::CloseOk {}));
        read_until(&mut stream, &close_ok);
    });
    let mut client = Client::connect(&uri, "test").unwrap();
    let error = loop {
        if let Err(error) = client.wait(None, None, |_| Ok(())) {
            break error;
        }
    };
    assert_eq!(error.to_string(), "320 enough");
    server.join().unwrap();
}

#[test]
fn a_server_without_signs_of_life_is_given_up() {
    let (listener, uri) = listen();
    let mut client = std::thread::scope(|scope| {
        let client = scope.spawn(|| Client::connect(&uri, "test").unwrap());
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(&greeting(1)).unwrap();
        let client = client.join().unwrap();
        // The socket stays open, but nobody says anything.
        (client, stream)
    });
    let error = client.0.wait(None, None, |_| Ok(())).unwrap_err();
    assert!(error.to_string().ends_with("has given no sign of life for 2s"), "{error}");
}

#[test]
fn a_deadline_ends_the_wait() {
    let (listener, uri) = listen();
    let server = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(&greeting(0)).unwrap();
        stream
    });
    let mut client = Client::connect(&uri, "test").unwrap();
    let deadline = Instant::now() + Duration::from_millis(1);
    assert!(!client.wait(None, Some(deadline), |_| panic!("nothing was said")).unwrap());
    assert!(Instant::now() >= deadline);
    drop(server.join().unwrap());
    let error = client.wait(None, None, |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("is lost"), "{error}");
}

#[test]
fn a_server_that_hangs_up_at_once_is_named() {
    let (listener, uri) = listen();
    let server =
        std::thread::spawn(move || read_until(&mut listener.accept().unwrap().0, &frame::PROTOCOL_HEADER));
    let Err(error) = Client::connect(&uri, "test") else { panic!("there is nobody to connect to") };
    let error = format!("{error:#}");
    assert!(
        error.contains(&format!("127.0.0.1:{} does not complete the AMQP handshake", uri.port)),
        "{error}"
    );
    server.join().unwrap();
}
