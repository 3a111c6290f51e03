-- What is there before the connectors start: the snapshot has it.
create extension hstore;
create extension citext;
create extension ltree;
create schema other;
create type mood as enum ('sad', 'ok', 'happy, very');
create domain positive as int check (value > 0);
create domain cents as numeric(12, 2);
create domain short_name as varchar(20);
create type pair as (a int, b text);

create table numbers (
  id int primary key,
  c_smallint smallint, c_int int, c_bigint bigint, c_oid oid, c_bool boolean,
  c_real real, c_double double precision,
  c_numeric numeric, c_numeric_10_2 numeric(10, 2), c_numeric_5_0 numeric(5, 0), c_numeric_38_10 numeric(38, 10),
  c_money money, c_serial serial, c_bigserial bigserial,
  c_positive positive, c_cents cents);
insert into numbers values
  (1, 1, 2, 3, 4, true, 1.5, 2.25, 123.456, 12.34, 12345, 1234567890.0123456789, 1234.56, 7, 8, 9, 10.10),
  (2, -32768, -2147483648, -9223372036854775808, 4294967295, false, '-Infinity', 'NaN', -0.000000000000000001, -99999999.99, -99999, -1, -1234.56, 7, 8, 1, -0.01),
  (3, 32767, 2147483647, 9223372036854775807, 0, null, 3.4028235e38, 1.7976931348623157e308, 1e30, 0, 0, 0, 0, 7, 8, 2147483647, 0),
  (4, null, null, null, null, null, null, null, null, null, null, null, null, 1, 1, null, null);

create table texts (
  id int primary key,
  c_text text, c_varchar varchar, c_varchar_10 varchar(10), c_char char, c_char_5 char(5), c_bpchar bpchar, c_name name, c_internal "char",
  c_bytea bytea, c_json json, c_jsonb jsonb, c_xml xml, c_uuid uuid, c_citext citext, c_ltree ltree, c_hstore hstore, c_mood mood,
  c_short short_name, c_bit bit, c_bit_5 bit(5), c_varbit varbit, c_varbit_12 bit varying(12), c_bit_80 bit(80), c_tsvector tsvector, c_tsquery tsquery);
insert into texts values
  (1, 'text', 'varchar', 'v10', 'c', 'c5', 'bp', 'name', 'i', '\x00ff10', '{"a": [1, 2,  3], "b": null}', '{"b": 1, "a": "x"}', '<a><b>1</b></a>',
   'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'CiText', 'Top.Science.Astronomy', 'a=>1, b=>NULL, "c d"=>"e\"f"', 'ok', 'short', B'1', B'10110', B'101', B'111000111', repeat('10', 40)::bit(80), 'a fat cat', 'fat & cat'),
  (2, E'line\nline\ttab "quoted" \\ back ''single'' {}', '', '', ' ', ' x ', ' y ', 'n', 'z', '', '[]', '[1.0, 1e10, true, "\u00e9"]', '', '00000000-0000-0000-0000-000000000000',
   '', '', '', 'happy, very', 'ünïcödé 😀', B'0', B'00000', B'', B'', repeat('0', 80)::bit(80), '', ''),
  (3, 'ünïcödé 😀 漢字', 'null', 'NULL', '\', '"', '{}', 'NULL', '\', '\x5c', 'null', 'null', '<e/>', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'NULL', 'a', 'k=>""', 'sad', '\N', B'1', B'11111', B'1', B'1', repeat('1', 80)::bit(80), 'x:1', 'x');
insert into texts (id) values (4);

create table times (
  id int primary key,
  c_date date, c_time time, c_time_0 time(0), c_time_3 time(3), c_time_6 time(6), c_timetz timetz,
  c_timestamp timestamp, c_timestamp_0 timestamp(0), c_timestamp_3 timestamp(3), c_timestamp_6 timestamp(6),
  c_timestamptz timestamptz, c_timestamptz_3 timestamptz(3), c_interval interval, c_interval_3 interval(3));
insert into times values
  (1, '2024-02-29', '12:34:56.123456', '12:34:56', '12:34:56.123', '12:34:56.123456', '12:34:56.123456+02', '2024-02-29 12:34:56.123456', '2024-02-29 12:34:56',
   '2024-02-29 12:34:56.123', '2024-02-29 12:34:56.123456', '2024-02-29 12:34:56.123456+02', '2024-02-29 12:34:56.123-08', '1 year 2 mons 3 days 04:05:06.789', '00:00:01.5'),
  (2, '1969-12-31', '00:00:00', '00:00:00', '00:00:00', '00:00:00', '00:00:00+00', '1969-12-31 23:59:59.999999', '1969-12-31 23:59:59', '1969-12-31 23:59:59.999',
   '1969-12-31 23:59:59.999999', '1969-12-31 23:59:59.999999+00', '1900-01-01 00:00:00+00', '-1 year -2 mons +3 days -04:05:06.7', '-1 day'),
  (3, '0001-01-01', '24:00:00', '24:00:00', '23:59:59.999', '23:59:59.999999', '23:59:59.999999-12', '0001-01-01 00:00:00', '9999-12-31 23:59:59', '9999-12-31 23:59:59.999',
   '4713-01-01 00:00:00 BC', '9999-12-31 23:59:59.999999+00', '0044-03-15 12:00:00+00 BC', '0', '178000000 years'),
  (4, '1582-10-10', '01:02:03.1', '01:02:03', '01:02:03.1', '01:02:03.1', '01:02:03.1+05:30', '1582-10-10 01:02:03.1', '1700-01-01 00:00:00', '2262-04-11 23:47:16.854', '2300-01-01 00:00:00',
   '2024-06-30 12:00:00+00', '2024-06-30 12:00:00+00', '3 mons', '1 mon');
insert into times (id) values (5);
create table infinite (id int primary key, c_date date, c_timestamp timestamp, c_timestamptz timestamptz);
insert into infinite values (1, 'infinity', 'infinity', 'infinity'), (2, '-infinity', '-infinity', '-infinity');
create table nans (id int primary key, c_numeric numeric, c_numeric_10_2 numeric(10, 2));
insert into nans values (1, 'NaN', 'NaN'), (2, 'Infinity', null), (3, '-Infinity', null), (4, 1, 1);

create table others (
  id int primary key,
  c_inet inet, c_cidr cidr, c_macaddr macaddr, c_macaddr8 macaddr8, c_point point,
  c_int4range int4range, c_int8range int8range, c_numrange numrange, c_tsrange tsrange, c_tstzrange tstzrange, c_daterange daterange);
insert into others values
  (1, '192.168.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '(1.5,-2.5)', '[1,10)', '(,5]', '[1.5,2.5]', '["2024-01-01 00:00:00","2024-02-01 12:00:00.5")',
   '["2024-01-01 00:00:00+02",)', '[2024-01-01,2024-02-01]'),
  (2, '::1', '2001:db8::/32', 'ff:ff:ff:ff:ff:ff', 'ff:ff:ff:ff:ff:ff:ff:ff', '(0,0)', 'empty', '(,)', 'empty', 'empty', '(,)', 'empty');
insert into others (id) values (3);
-- Types that Debezium does not know: left out unless include.unknown.datatypes.
create table unknowns (id int primary key, c_box box, c_line line, c_path path, c_polygon polygon, c_circle circle, c_lseg lseg, c_pair pair, c_regclass regclass, c_multirange int4multirange, c_lsn pg_lsn, c_int int);
insert into unknowns values (1, '(1,1),(0,0)', '{1,2,3}', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))', '<(0,0),1>', '[(0,0),(1,1)]', '(1,"a b")', 'pg_class', '{[1,3),[5,7)}', '0/16B3748', 5);
insert into unknowns (id) values (2);

create table arrays (
  id int primary key,
  c_ints int[], c_bigints bigint[], c_smallints smallint[], c_texts text[], c_varchars varchar(10)[], c_chars char(3)[], c_bools boolean[], c_reals real[], c_doubles double precision[],
  c_numerics numeric[], c_numerics_10_2 numeric(10, 2)[], c_dates date[], c_times time[], c_timestamps timestamp[], c_timestamptzs timestamptz[], c_uuids uuid[],
  c_jsons json[], c_jsonbs jsonb[], c_moods mood[], c_inets inet[], c_citexts citext[], c_ranges int4range[], c_oids oid[]);
insert into arrays values
  (1, '{1,2,NULL}', '{1}', '{-1}', '{a,NULL,"b,c","d\"e","NULL",""}', '{x,y}', '{a,b}', '{t,f,NULL}', '{1.5,NULL}', '{2.5,NaN}', '{1.10,NULL,3}', '{1.10,2}', '{2024-01-01,NULL}', '{12:00:00.123456}',
   '{"2024-01-01 12:00:00.123456"}', '{"2024-01-01 12:00:00+02"}', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', array['{"a": 1}']::json[], array['{"a": 1}', null]::jsonb[], '{ok,NULL}', '{192.168.0.1,::1}', '{Ab}', '{"[1,3)"}', '{1,2}'),
  (2, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}');
insert into arrays (id) values (3);
create table deep_arrays (id int primary key, c_ints int[][], c_texts text[]);
insert into deep_arrays values (1, '{{1,2},{3,4}}', '{{a,b},{c,NULL}}'), (2, '{1}', '{x}');
create table bit_arrays (id int primary key, c_bytea bytea[], c_hstores hstore[], c_intervals interval[], c_bits bit(3)[], c_money money[], c_timetz timetz[], c_xml xml[]);
insert into bit_arrays values (1, array['\x00ff', null]::bytea[], array['a=>1']::hstore[], '{1 day}', '{101}', '{1.50}', '{12:00:00+02}', array['<a/>']::xml[]);
insert into bit_arrays (id) values (2);

create table defaults (
  id serial primary key, d_int int default 42, d_not_null int not null default 7, d_text text default 'it''s', d_bool boolean not null default true, d_numeric numeric(6, 2) default 1.50,
  d_now timestamptz default now(), d_date date default '2024-01-01', d_ts timestamp default '2024-01-01 12:00:00', d_uuid uuid default gen_random_uuid(), d_json jsonb default '{"a": 1}', d_mood mood default 'ok',
  d_double double precision default 1.5, d_ints int[] default '{1,2}', d_interval interval default '1 day', d_time time default '01:02:03', d_generated int generated always as (id * 2) stored);
insert into defaults (d_now, d_uuid) values ('2024-01-01', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
insert into defaults (d_int, d_text, d_numeric, d_now, d_date, d_ts, d_uuid, d_json, d_mood, d_double, d_ints, d_interval, d_time) values (null, null, null, null, null, null, null, null, null, null, null, null, null);

create table toasted (id int primary key, n int, big text, big_json jsonb, big_bytes bytea, bigs text[], big_not_null text not null, big_hstore hstore);
alter table toasted alter big set storage external, alter big_json set storage external, alter big_bytes set storage external, alter bigs set storage external, alter big_not_null set storage external, alter big_hstore set storage external;
insert into toasted values (1, 1, repeat('a', 5000), ('{"k": "' || repeat('b', 5000) || '"}')::jsonb, decode(repeat('cd', 5000), 'hex'), array[repeat('e', 5000)], repeat('f', 5000), hstore('k', repeat('g', 5000))), (2, 2, 'small', '{}', '\x00', '{}', 'small', '');
create table toasted_full (like toasted including all);
alter table toasted_full replica identity full;
insert into toasted_full select * from toasted;

create table no_key (a int, b text);
insert into no_key values (1, 'one'), (2, null);
create table no_key_full (a int, b text);
alter table no_key_full replica identity full;
insert into no_key_full values (1, 'one'), (2, null);
create table identity_full (id int primary key, a int, b text default 'x');
alter table identity_full replica identity full;
insert into identity_full values (1, 1, 'one'), (2, 2, null);
create table identity_nothing (id int primary key, a int);
alter table identity_nothing replica identity nothing;
insert into identity_nothing values (1, 1);
create table identity_index (id int primary key, code text not null, region int not null, a int);
create unique index identity_index_code on identity_index (code, region);
alter table identity_index replica identity using index identity_index_code;
insert into identity_index values (1, 'one', 1, 10), (2, 'two', 2, 20);
create table unique_only (a int not null, b text not null, c int, unique (b, a));
alter table unique_only replica identity using index unique_only_b_a_key;
insert into unique_only values (1, 'one', 1);
create table composite (b int, a text, c int, primary key (a, b));
insert into composite values (1, 'one', 10), (2, 'two', 20);
create table text_key (code varchar(10) primary key, v int);
insert into text_key values ('k1', 1), ('k2', 2);
create table other."Weird Name" ("Id" int primary key, "select" text, "a.b" int, "ünï" int, "dash-ed" int, "1st" int);
insert into other."Weird Name" values (1, 'x', 2, 3, 4, 5);
create table other.customers (id int primary key, name text, ssn text, email varchar(100), secret text);
insert into other.customers values (1, 'Alice Anderson', '123-45-6789', 'alice@example.com', 'hidden'), (2, null, null, null, null);
create table empty_table (id int primary key, v text);
create table truncated (id int primary key, v int);
insert into truncated values (1, 1), (2, 2);
create table truncated_too (id int primary key, v int);
insert into truncated_too values (1, 1);
create table altered (id int primary key, a int, b text);
insert into altered values (1, 1, 'one');

create table parts (id int not null, region text not null, v int, primary key (id, region)) partition by list (region);
create table parts_eu partition of parts for values in ('eu');
create table parts_us partition of parts for values in ('us');
insert into parts values (1, 'eu', 1), (2, 'us', 2);
create table marker (id int primary key);
