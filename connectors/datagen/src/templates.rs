//! The templates with structured records.

use crate::config::Template;
use crate::dice::Dice;
use aqueduct_core::schema::{Kind, logical};
use aqueduct_core::{Data, Payload, Record, Schema, Topic};
use std::sync::Arc;

const SENSORS: u64 = 100;
const EMPLOYEES: u64 = 1000;
const FIRST_NAMES: [&str; 12] =
    ["Ada", "Alan", "Barbara", "Claude", "Donald", "Edsger", "Frances", "Grace", "Hedy", "Ivan", "Jean", "Ken"];
const LAST_NAMES: [&str; 12] =
    ["Adams", "Brown", "Clarke", "Dietrich", "Evans", "Fischer", "Garcia", "Haas", "Ito", "Jansen", "Kovacs", "Lopez"];
const DEPARTMENTS: [&str; 6] = ["engineering", "finance", "legal", "marketing", "operations", "sales"];

/// Makes record `n`, as structured data with its schema.
#[derive(Debug)]
pub(crate) struct Records {
    topic: Topic,
    template: Template,
    seed: u64,
    key: Arc<Schema>,
    value: Arc<Schema>,
}

impl Records {
    pub(crate) fn new(template: Template, topic: Topic, seed: u64) -> Self {
        let (key, value) = schemas(template);
        Self { topic, template, seed, key: Arc::new(key), value: Arc::new(value) }
    }

    /// `millis` since the epoch is the time in the record. The record's own timestamp is left to the log: retention goes by it.
    pub(crate) fn make(&self, n: u64, millis: i64) -> Record {
        let mut dice = Dice::new(self.seed, n);
        let (key, value) = match self.template {
            Template::Orders => order(&mut dice, n, millis),
            Template::Sensors => reading(&mut dice, n, millis),
            Template::SalaryUpdates => raise(self.seed, n, millis),
            Template::AccessLog => (Data::Null, Data::Null),
        };
        Record {
            key: Payload::data(Some(self.key.clone()), key),
            ..Record::new(self.topic.clone(), Payload::data(Some(self.value.clone()), Data::Struct(value_of(value))))
        }
    }
}

fn value_of(data: Data) -> Vec<Data> {
    match data {
        Data::Struct(values) => values,
        other => vec![other],
    }
}

/// As Confluent's `orders`.
fn order(dice: &mut Dice, n: u64, millis: i64) -> (Data, Data) {
    let id = Data::Int32((n & 0x7fff_ffff) as i32);
    let address = vec![
        Data::String(format!("City_{}", dice.range(1, 99))),
        Data::String(format!("State_{}", dice.range(1, 99))),
        Data::Int64(dice.range(10_000, 99_999)),
    ];
    let item = Data::String(format!("Item_{}", dice.range(1, 999)));
    (
        id.clone(),
        Data::Struct(vec![Data::Int64(millis), id, item, Data::Float64(dice.decimal(0.1, 10.0, 100.0)), Data::Struct(address)]),
    )
}

fn reading(dice: &mut Dice, n: u64, millis: i64) -> (Data, Data) {
    let sensor = Data::String(format!("sensor-{:03}", dice.below(SENSORS)));
    let values = vec![
        sensor.clone(),
        Data::Int64(n as i64),
        Data::Int64(millis),
        Data::Float64(dice.decimal(-10.0, 35.0, 10.0)),
        Data::Float64(dice.decimal(20.0, 95.0, 10.0)),
        Data::Int32(dice.range(5, 100) as i32),
    ];
    (sensor, Data::Struct(values))
}

/// Each employee's old salary is the new one of the raise before, so that a table of the latest values can be checked.
fn raise(seed: u64, n: u64, millis: i64) -> (Data, Data) {
    let (employee, raises) = (n % EMPLOYEES, (n / EMPLOYEES) as i64);
    // The dice of the employee, not of the record: name, department, first salary and step stay.
    let mut dice = Dice::new(seed ^ 0x5a1a_4ef0, employee);
    let name = format!("{} {}", dice.pick(&FIRST_NAMES), dice.pick(&LAST_NAMES));
    let department = dice.pick(&DEPARTMENTS);
    let (first, step) = (dice.range(30, 120) * 1000, dice.range(5, 40) * 50);
    let old = first.saturating_add(step.saturating_mul(raises));
    let values = vec![
        Data::Int32(employee as i32),
        Data::Int64(n as i64),
        name.into(),
        department.into(),
        Data::Int64(old),
        Data::Int64(old.saturating_add(step)),
        Data::Int32(millis.div_euclid(86_400_000) as i32),
    ];
    (Data::Int32(employee as i32), Data::Struct(values))
}

fn schemas(template: Template) -> (Schema, Schema) {
    let of = Schema::new;
    let timestamp = || Schema { version: Some(1), ..of(Kind::Int64).named(logical::TIMESTAMP) };
    let date = || Schema { version: Some(1), ..of(Kind::Int32).named(logical::DATE) };
    let root = |name: &str| of(Kind::Struct).named(format!("aqueduct.datagen.{name}"));
    match template {
        Template::Orders => {
            let address = of(Kind::Struct).named("ksql.address");
            let address =
                address.field("city", of(Kind::String)).field("state", of(Kind::String)).field("zipcode", of(Kind::Int64));
            let order =
                of(Kind::Struct).named("ksql.orders").field("ordertime", of(Kind::Int64)).field("orderid", of(Kind::Int32));
            let order = order.field("itemid", of(Kind::String)).field("orderunits", of(Kind::Float64)).field("address", address);
            (of(Kind::Int32), order)
        }
        Template::Sensors => {
            let reading = root("Reading")
                .field("sensor_id", of(Kind::String))
                .field("sequence", of(Kind::Int64))
                .field("time", timestamp());
            let reading = reading
                .field("temperature", of(Kind::Float64))
                .field("humidity", of(Kind::Float64))
                .field("battery", of(Kind::Int32));
            (of(Kind::String), reading)
        }
        Template::SalaryUpdates => {
            let raise = root("SalaryUpdate")
                .field("employee_id", of(Kind::Int32))
                .field("sequence", of(Kind::Int64))
                .field("name", of(Kind::String));
            let raise = raise.field("department", of(Kind::String)).field("old_salary", of(Kind::Int64));
            (of(Kind::Int32), raise.field("new_salary", of(Kind::Int64)).field("effective", date()))
        }
        Template::AccessLog => (of(Kind::String).optional(), of(Kind::String).optional()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(template: Template, n: u64) -> Vec<Data> {
        match Records::new(template, "t".into(), 7).make(n, 1_767_225_600_000).value {
            Payload::Data(value) => {
                let values = value_of(value.data);
                assert_eq!(values.len(), value.schema.unwrap().fields.len());
                values
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_record_is_a_function_of_seed_and_number() {
        for template in [Template::Orders, Template::Sensors, Template::SalaryUpdates] {
            let make = |seed, n| Records::new(template, "t".into(), seed).make(n, n as i64);
            assert_eq!(make(7, 12_345), make(7, 12_345));
            assert_ne!(make(7, 12_345), make(7, 12_346));
            assert_ne!(make(7, 12_345).value, make(8, 12_345).value);
        }
    }

    #[test]
    fn an_old_salary_is_the_new_one_of_the_raise_before() {
        for n in [0, 999, 5000, 123_456] {
            let (before, after) = (values(Template::SalaryUpdates, n), values(Template::SalaryUpdates, n + EMPLOYEES));
            assert_eq!((&before[0], &before[2], &before[5]), (&after[0], &after[2], &after[4]));
        }
    }
}
