//! The control frames of `vectors.json`, which other implementations use. `PKTCONN_UPDATE=1` writes the file anew.

use std::fmt::Write as _;

use bytes::BytesMut;
use pktconn_codec::{Checksum, CodecConfig, HeaderFormat};
use pktconn_session::frame::{
    Bye, ByeReason, ControlError, ControlFrame, Decoded, GoAway, GoAwayReason, Hello, Reject, RejectReason,
    Secret, SessionId, Welcome, WireFormat, decode_control, encode_control,
};
use serde_json::{Value, json};

const CONFIGS: [(&str, HeaderFormat, Checksum); 4] = [
    ("le", HeaderFormat::U32Le, Checksum::None),
    ("be", HeaderFormat::U32Be, Checksum::None),
    ("le_crc", HeaderFormat::U32Le, Checksum::Crc32),
    ("be_crc", HeaderFormat::U32Be, Checksum::Crc32),
];

fn wire(name: &str) -> WireFormat {
    let (_, header, checksum) = CONFIGS.into_iter().find(|config| config.0 == name).unwrap();
    WireFormat::new(&CodecConfig::new().header(header).checksum(checksum)).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn encoded(frame: &ControlFrame, config: &str) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode_control(frame, wire(config), &mut bytes);
    bytes.to_vec()
}

fn frames() -> Vec<ControlFrame> {
    let id = SessionId(*b"0123456789abcdef");
    let secret = Secret([0xA0, 0xA1, 0xA2, 0xA3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
    let hello = Hello {
        version: 1,
        features: 0,
        id: SessionId::NEW,
        secret: Secret::default(),
        attempt: 1,
        received: 0,
        first_held: 0,
        replay_bytes: 1_048_576,
    };
    let welcome = Welcome {
        version: 1,
        features: 0,
        id,
        secret,
        resumed: false,
        received: 0,
        first_held: 0,
        replay_bytes: 65_536,
        ttl_ms: 120_000,
        min_ping_ms: 1000,
        resume_at: String::new(),
    };
    let mut frames = vec![
        ControlFrame::Hello(hello.clone()),
        ControlFrame::Hello(Hello {
            version: 2,
            features: 0x8000_0001,
            id,
            secret,
            attempt: 0x0102_0304,
            received: 0x0102_0304_0506_0708,
            first_held: u64::MAX,
            ..hello
        }),
        ControlFrame::Welcome(welcome.clone()),
        ControlFrame::Welcome(Welcome {
            resumed: true,
            received: 258,
            first_held: 257,
            resume_at: "gate-2.example:14572".into(),
            ..welcome.clone()
        }),
        ControlFrame::Welcome(Welcome { resume_at: "é".repeat(127), ..welcome }),
        ControlFrame::Ack { received: 0 },
        ControlFrame::Ack { received: 0x0102_0304_0506_0708 },
        ControlFrame::Ping { data: [1, 2, 3, 4, 5, 6, 7, 8] },
        ControlFrame::Pong { data: *b"\xFFpongs!\0" },
    ];
    for reason in 1..=7 {
        frames.push(ControlFrame::Reject(Reject {
            reason: reason.into(),
            retry_after_ms: 1000 * u32::from(reason),
        }));
    }
    for (reason, address) in
        [(GoAwayReason::Unspecified, ""), (GoAwayReason::Shutdown, "[2001:db8::7]:14572")]
    {
        let address = address.into();
        frames.push(ControlFrame::GoAway(GoAway { reason, deadline_ms: 30_000, spread_ms: 10_000, address }));
    }
    for reason in 0..=6 {
        frames.push(ControlFrame::Bye(Bye { reason: reason.into(), sent: 1000 }));
    }
    frames.push(ControlFrame::Stop { received: 0xFFFF_FFFF_FFFF_FFFE });
    frames.push(ControlFrame::Done);
    frames
}

fn fields(frame: &ControlFrame) -> Value {
    match frame {
        ControlFrame::Hello(hello) => json!({
            "version": hello.version, "features": hello.features, "id": hex(&hello.id.0), "secret": hex(&hello.secret.0),
            "attempt": hello.attempt, "received": hello.received.to_string(), "first_held": hello.first_held.to_string(),
            "replay_bytes": hello.replay_bytes,
        }),
        ControlFrame::Welcome(welcome) => json!({
            "version": welcome.version, "features": welcome.features, "id": hex(&welcome.id.0),
            "secret": hex(&welcome.secret.0), "resumed": welcome.resumed, "received": welcome.received.to_string(),
            "first_held": welcome.first_held.to_string(), "replay_bytes": welcome.replay_bytes, "ttl_ms": welcome.ttl_ms,
            "min_ping_ms": welcome.min_ping_ms, "resume_at": welcome.resume_at,
        }),
        ControlFrame::Reject(reject) => {
            json!({ "reason": u8::from(reject.reason), "retry_after_ms": reject.retry_after_ms })
        }
        ControlFrame::Ack { received } | ControlFrame::Stop { received } => {
            json!({ "received": received.to_string() })
        }
        ControlFrame::Ping { data } | ControlFrame::Pong { data } => json!({ "data": hex(data) }),
        ControlFrame::GoAway(go_away) => json!({
            "reason": u8::from(go_away.reason), "deadline_ms": go_away.deadline_ms, "spread_ms": go_away.spread_ms,
            "address": go_away.address,
        }),
        ControlFrame::Done => json!({}),
        ControlFrame::Bye(bye) => json!({
            "reason": u8::from(bye.reason), "sent": bye.sent.to_string(),
        }),
    }
}

/// A frame of any type with any body, with a correct length and checksum.
fn raw(type_code: u8, body: &[u8], config: &str) -> Vec<u8> {
    let mut bytes = vec![type_code, 0xFF, 0xFF, 0xFF];
    bytes.extend_from_slice(&(body.len() as u16).to_le_bytes());
    bytes.extend_from_slice(body);
    if config == "le_crc" {
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    }
    bytes
}

fn body(frame: &ControlFrame) -> Vec<u8> {
    encoded(frame, "le")[6..].to_vec()
}

/// Frames that no encoder of version 1 makes, and that must be accepted: what follows them must be read as usual.
fn accepted() -> Vec<(String, Vec<u8>, Option<ControlFrame>)> {
    let mut cases = Vec::new();
    for frame in [&frames()[0], &frames()[3]] {
        let mut body = body(frame);
        body.extend_from_slice(b"later");
        let name = format!("{} with extra bytes", frame.name());
        cases.push((name, raw(frame.type_code(), &body, "le"), Some(frame.clone())));
    }
    for (type_code, len) in [(0x80, 0), (0x80, 1), (0xFF, 1024)] {
        cases.push((format!("type {type_code:#04x}, {len} B"), raw(type_code, &vec![7; len], "le"), None));
    }
    cases
}

fn invalid() -> Vec<(String, &'static str, Vec<u8>, &'static str)> {
    let mut cases = Vec::new();
    for type_code in [0x0A, 0x7F] {
        cases.push((format!("type {type_code:#04x}"), "le", raw(type_code, &[], "le"), "type"));
    }
    for type_code in [0x00, 0x08, 0x80] {
        cases.push((
            format!("type {type_code:#04x}, 1,025 B"),
            "le",
            raw(type_code, &[0; 1025], "le"),
            "length",
        ));
    }
    for frame in frames()
        .iter()
        .filter(|frame| !matches!(frame, ControlFrame::Bye(bye) if bye.reason != ByeReason::Closed))
    {
        let mut short = body(frame);
        if short.pop().is_some() {
            let name = format!("{}, one byte too short", frame.name());
            cases.push((name, "le", raw(frame.type_code(), &short, "le"), "length"));
            let empty = raw(frame.type_code(), &[], "le");
            cases.push((format!("{}, empty", frame.name()), "le", empty, "length"));
        }
        if !matches!(frame, ControlFrame::Hello(_) | ControlFrame::Welcome(_)) {
            let mut long = body(frame);
            long.push(0);
            let name = format!("{}, one byte too long", frame.name());
            cases.push((name, "le", raw(frame.type_code(), &long, "le"), "length"));
        }
    }
    let mut resumed = body(&frames()[2]);
    resumed[37] = 2;
    cases.push(("WELCOME, resumed 2".into(), "le", raw(0x01, &resumed, "le"), "field"));
    let mut text = body(&frames()[3]);
    *text.last_mut().unwrap() = 0xC3;
    cases.push(("WELCOME, address not UTF-8".into(), "le", raw(0x01, &text, "le"), "field"));
    let mut text = body(&ControlFrame::GoAway(GoAway {
        reason: GoAwayReason::Load,
        deadline_ms: 1,
        spread_ms: 1,
        address: "a".into(),
    }));
    *text.last_mut().unwrap() = 0xFF;
    cases.push(("GOAWAY, address not UTF-8".into(), "le", raw(0x06, &text, "le"), "field"));
    for frame in [&frames()[0], &frames()[5]] {
        let mut wrong = encoded(frame, "le_crc");
        *wrong.last_mut().unwrap() ^= 1;
        cases.push((format!("{}, wrong CRC-32", frame.name()), "le_crc", wrong, "checksum"));
        let mut wrong = encoded(frame, "le_crc");
        wrong[7] ^= 1;
        cases.push((format!("{}, altered body", frame.name()), "le_crc", wrong, "checksum"));
    }
    let mut wrong = raw(0x80, b"ignored", "le_crc");
    wrong[6] ^= 1;
    cases.push(("type 0x80, altered body".into(), "le_crc", wrong, "checksum"));
    let mut names = std::collections::HashSet::new();
    cases.retain(|case| names.insert((case.0.clone(), case.2.clone())));
    cases
}

fn document() -> Value {
    let frames = frames().into_iter().map(|frame| {
        let mut entry = json!({ "frame": { "name": frame.name(), "fields": fields(&frame) } });
        for (config, ..) in CONFIGS {
            entry[config] = hex(&encoded(&frame, config)).into();
        }
        entry
    });
    let accepted = accepted().into_iter().map(|(name, bytes, frame)| {
        let frame = frame.map(|frame| json!({ "name": frame.name(), "fields": fields(&frame) }));
        json!({ "name": name, "le": hex(&bytes), "frame": frame })
    });
    let invalid = invalid()
        .into_iter()
        .map(|(name, config, bytes, error)| json!({ "name": name, config: hex(&bytes), "error": error }));
    json!({
        "frames": frames.collect::<Vec<_>>(),
        "accepted": accepted.collect::<Vec<_>>(),
        "invalid": invalid.collect::<Vec<_>>(),
    })
}

#[test]
fn the_file_of_vectors_is_that_of_this_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors.json");
    let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os("PKTCONN_UPDATE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        text,
        "run with PKTCONN_UPDATE=1 if the change is intended"
    );
}

#[test]
fn each_vector_decodes_to_its_frame_and_each_prefix_is_incomplete() {
    for frame in frames() {
        for (config, ..) in CONFIGS {
            let bytes = encoded(&frame, config);
            let len = bytes.len();
            let decoded = decode_control(&bytes, wire(config));
            assert_eq!(decoded, Ok(Decoded::Control { frame: Some(frame.clone()), len }), "{config}");
            for prefix in 0..len {
                let decoded = decode_control(&bytes[..prefix], wire(config));
                assert!(
                    matches!(decoded, Ok(Decoded::Incomplete { len: needed }) if needed > prefix && needed <= len),
                    "{prefix} bytes of {frame:?}: {decoded:?}"
                );
            }
        }
    }
}

#[test]
fn known_bytes_are_known_frames() {
    let ack = ControlFrame::Ack { received: 0x0102_0304_0506_0708 };
    assert_eq!(encoded(&ack, "le"), unhex("03ffffff08000807060504030201"));
    assert_eq!(encoded(&ack, "be"), unhex("ffffff0300080102030405060708"));
    // The checksum is that of Python's zlib.crc32.
    let ping = ControlFrame::Ping { data: [1, 2, 3, 4, 5, 6, 7, 8] };
    assert_eq!(encoded(&ping, "le_crc"), unhex("04ffffff08000102030405060708ed8fe490"));
    assert_eq!(encoded(&frames()[0], "le").len(), 6 + 61);
    assert_eq!(encoded(&frames()[2], "le_crc").len(), 6 + 67 + 4);
}

#[test]
fn frames_of_later_versions_are_accepted() {
    for (name, bytes, frame) in accepted() {
        let len = bytes.len();
        assert_eq!(decode_control(&bytes, wire("le")), Ok(Decoded::Control { frame, len }), "{name}");
    }
}

#[test]
fn each_invalid_vector_is_refused_with_its_error() {
    for (name, config, bytes, expected) in invalid() {
        let error = decode_control(&bytes, wire(config)).expect_err(&name);
        let actual = match error {
            ControlError::UnknownType { .. } => "type",
            ControlError::Length { .. } => "length",
            ControlError::Field { .. } => "field",
            ControlError::Checksum { .. } => "checksum",
            _ => "another",
        };
        assert_eq!(actual, expected, "{name}: {error}");
    }
}

#[test]
fn a_type_and_a_length_are_refused_before_the_body_arrives() {
    assert_eq!(
        decode_control(&unhex("0affffff"), wire("le")),
        Err(ControlError::UnknownType { type_code: 10 })
    );
    let error = ControlError::Length { type_code: 7, body_len: 1025, expected: 1024 };
    assert_eq!(decode_control(&unhex("07ffffff0104"), wire("le")), Err(error));
}

#[test]
fn a_payload_length_is_a_data_frame() {
    assert_eq!(decode_control(&unhex("fffeffff"), wire("le")), Ok(Decoded::Data));
    assert_eq!(decode_control(&unhex("00000000"), wire("be")), Ok(Decoded::Data));
    assert_eq!(decode_control(&unhex("fffffeff"), wire("be")), Ok(Decoded::Data));
}

#[test]
fn a_string_is_cut_between_characters() {
    let frame = ControlFrame::GoAway(GoAway {
        reason: GoAwayReason::Load,
        deadline_ms: 0,
        spread_ms: 0,
        address: "é".repeat(200),
    });
    let Ok(Decoded::Control { frame: Some(ControlFrame::GoAway(decoded)), .. }) =
        decode_control(&encoded(&frame, "le"), wire("le"))
    else {
        panic!("not a GOAWAY");
    };
    assert_eq!(decoded.address, "é".repeat(127));
}

#[test]
fn reasons_keep_their_codes() {
    for code in 0..=255_u8 {
        assert_eq!(u8::from(RejectReason::from(code)), code);
        assert_eq!(u8::from(ByeReason::from(code)), code);
        assert_eq!(u8::from(GoAwayReason::from(code)), code);
    }
}

#[test]
fn framings_without_room_for_control_frames_are_refused() {
    for (header, limit, is_usable) in [
        (HeaderFormat::U16Le, 1000, false),
        (HeaderFormat::U16Be, 1000, false),
        (HeaderFormat::U32Le, 0xFFFF_FEFF, true),
        (HeaderFormat::U32Le, 0xFFFF_FF00, false),
        (HeaderFormat::U32Be, usize::MAX, false),
    ] {
        let config = CodecConfig::new().header(header).max_payload_len(limit);
        assert_eq!(WireFormat::new(&config).is_ok(), is_usable, "{header} {limit}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_decode_without_a_panic_and_within_their_length(
        type_code: u8,
        body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
        cut in 0..500_usize,
        with_crc: bool,
    ) {
        let config = if with_crc { "le_crc" } else { "le" };
        let bytes = raw(type_code, &body, config);
        let bytes = &bytes[..bytes.len().min(cut)];
        match decode_control(bytes, wire(config)) {
            Ok(Decoded::Control { len, .. }) => assert!(len <= bytes.len()),
            Ok(Decoded::Incomplete { len }) => assert!(len > bytes.len()),
            Ok(Decoded::Data) => panic!("not a payload length"),
            Err(_) => {}
        }
    }
}
