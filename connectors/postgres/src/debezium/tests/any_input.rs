//! Whatever comes in.

use super::*;
use proptest::prelude::*;

proptest! {
    /// Whatever a server says of a column and of its value: an answer or an error, never a panic.
    #[test]
    fn nothing_panics(
        type_index in 0usize..80,
        modifier: i32,
        value in prop_oneof![proptest::collection::vec(any::<u8>(), 0..40), "[-+0-9a-zA-Z:., {}()\"\\\\]{0,30}".prop_map(String::into_bytes)],
        default in proptest::option::of("['()0-9a-z: \"E\\\\.-]{0,20}"),
        mode in 0usize..4,
    ) {
        let modes = [
            [("decimal.handling.mode", "precise"), ("time.precision.mode", "adaptive"), ("binary.handling.mode", "bytes")],
            [("decimal.handling.mode", "string"), ("time.precision.mode", "isostring"), ("binary.handling.mode", "hex")],
            [("decimal.handling.mode", "double"), ("time.precision.mode", "connect"), ("binary.handling.mode", "base64")],
            [("hstore.handling.mode", "map"), ("time.precision.mode", "nanoseconds"), ("interval.handling.mode", "string")],
        ];
        let types = types();
        let mut oids: Vec<u32> = types.keys().copied().collect();
        oids.sort_unstable();
        let column = Column { name: "c".into(), type_oid: oids[type_index % oids.len()], modifier, not_null: mode == 0, default };
        let model = model(&modes[mode]).table(&table(vec![column], vec![0]), &types).unwrap();
        for change in [Change::Update(Some(&[Cell::Null]), &[Cell::Text(&value)]), Change::Insert(&[Cell::Text(&value)])] {
            let mut made = Vec::new();
            if model.change(change, &INFO, None, &mut made).is_ok() {
                is_written_alike(&model, change, &made);
            }
        }
    }
}
