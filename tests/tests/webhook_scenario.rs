//! config/scenarios/orders-fan-out, from the words of its README.

use aqueduct_tests::scenario::play;
use aqueduct_tests::site::free_port;

#[test]
fn orders_fan_out() {
    let (port, services) = (free_port().to_string(), free_port().to_string());
    let env =
        [("ORDERS_SECRET", "whsec_a2VlcC10aGlzLXRvLXlvdXJzZWxm"), ("ORDERS_PORT", &port), ("ORDERS_SERVICES_PORT", &services)];
    let answer = play("orders-fan-out", &env);
    assert!(answer.starts_with("300 calls for 100 orders"), "{answer}");
}
