use super::*;
use proptest::prelude::*;

const VERSIONS: [Version; 2] = [Version::V3, Version::V5];

fn all(version: Version, bytes: &[u8]) -> Result<Vec<Incoming>, Broken> {
    let (mut input, mut found) = (BytesMut::from(bytes), Vec::new());
    while let Some(packet) = decode(version, 1 << 16, &mut input)? {
        found.push(packet);
    }
    Ok(found)
}

fn message(topic: &str, payload: &[u8], properties: PublishProperties) -> Outgoing {
    Outgoing {
        topic: TopicName::try_from(topic).unwrap(),
        payload: Bytes::copy_from_slice(payload),
        properties: Some(Box::new(properties)),
    }
}

#[test]
fn a_packet_comes_when_its_last_byte_does() {
    for version in VERSIONS {
        let bytes = publish_out(version, 1, 7, true, &message("fleet/1/pos", b"52.5", PublishProperties::default())).unwrap();
        for end in 0..bytes.len() {
            assert_eq!(all(version, &bytes[..end]), Ok(Vec::new()), "{version:?} {end}");
        }
        let twice = [&bytes[..], &[0x40, 2, 0, 9], &bytes[..3]].concat();
        let found = all(version, &twice).unwrap();
        let Incoming::Publish(publish) = &found[0] else { panic!("{found:?}") };
        assert_eq!((publish.topic(), &publish.payload[..], publish.qos, publish.pid), ("fleet/1/pos", &b"52.5"[..], 1, 7));
        assert!(publish.retain && !publish.dup && publish.properties.is_none());
        assert_eq!(found[1..], [Incoming::Ack { kind: Ack::Puback, pid: 9, reason: 0 }]);
    }
}

#[test]
fn properties_come_back() {
    let properties = PublishProperties {
        content_type: Some("text/plain".into()),
        correlation_data: Some(Bytes::from_static(b"\x00\x01")),
        user_properties: vec![v5::UserProperty { name: "a".into(), value: "b".into() }],
        // Wrong on purpose: the payload is no text.
        payload_is_utf8: Some(true),
        ..PublishProperties::default()
    };
    let bytes = publish_out(Version::V5, 2, 1, false, &message("t", b"\xff", properties.clone())).unwrap();
    let Incoming::Publish(found) = &all(Version::V5, &bytes).unwrap()[0] else { panic!("a PUBLISH") };
    assert_eq!((found.properties.as_deref(), &found.payload[..]), (Some(&properties), &b"\xff"[..]));
}

#[test]
fn what_is_announced_is_refused_before_it_comes() {
    for version in VERSIONS {
        assert_eq!(all(version, &[0x30, 0xff, 0xff, 0xff, 0x7f]), Err(Broken::TooLarge(268_435_460)));
    }
}

#[test]
fn what_no_broker_may_send_is_malformed() {
    let cases: [(&str, &[u8]); 10] = [
        ("length", &[0x30, 0xff, 0xff, 0xff, 0xff, 1]),
        ("QoS 3", &[0x36, 5, 0, 1, b'a', 0, 1]),
        ("UTF-8", &[0x30, 4, 0, 2, 0xc3, 0x28]),
        ("wildcard", &[0x30, 3, 0, 1, b'#']),
        ("identifier 0", &[0x32, 5, 0, 1, b'a', 0, 0]),
        ("ends early", &[0x30, 2, 0, 9]),
        ("only clients", &[0xc0, 0]),
        ("identifier", &[0x40, 1, 0]),
        ("alias, or none", &[0x30, 3, 0, 0, 0]),
        ("header", &[0x00, 0]),
    ];
    for version in VERSIONS {
        for (what, bytes) in cases {
            assert!(matches!(all(version, bytes), Err(Broken::Malformed(_))), "{version:?} {what}: {:?}", all(version, bytes));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Nothing panics, and what is decoded is never larger than what came.
    #[test]
    fn any_bytes_are_packets_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for version in VERSIONS {
            let _ = all(version, &bytes);
        }
    }

    /// The same for packets that are nearly right: one frame of each type around anything.
    #[test]
    fn any_body_is_a_packet_or_an_error(first in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..120)) {
        let bytes = [&[first, body.len() as u8], &body[..]].concat();
        for version in VERSIONS {
            if let Ok(found) = all(version, &bytes) {
                prop_assert!(found.len() <= 1);
            }
        }
    }

    /// Flips in packets that were right.
    #[test]
    fn any_flip_is_a_packet_or_an_error(at in any::<prop::sample::Index>(), bit in 0..8u8, level in 0..3u8) {
        let properties = PublishProperties {
            content_type: Some("text/plain".into()),
            message_expiry_interval: Some(60),
            user_properties: vec![v5::UserProperty { name: "a".into(), value: "b".into() }],
            ..PublishProperties::default()
        };
        for version in VERSIONS {
            let mut bytes = publish_out(version, level, 7, false, &message("a/b", b"payload", properties.clone())).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let _ = all(version, &bytes);
        }
    }
}
