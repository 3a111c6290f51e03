//! config/scenarios/iot-sensors runs from the words of its README, and survives the kill that it proposes.

use aqueduct_tests::scenario;
use mqtt_services::{Broker, Options};

#[test]
fn iot_sensors() {
    let broker = Broker::start(Options::default());
    let port = broker.port().to_string();
    let answer = scenario::play("iot-sensors", &[("MQTT_HOST", "127.0.0.1"), ("MQTT_PORT", &port)]);
    assert_eq!(answer.trim(), "2400 readings, 2400 different");
}
