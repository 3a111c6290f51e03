-- What is streamed. Statements between two marks are sent at once; at a mark both connectors catch up, since Debezium reads keys and defaults from the catalogue as it is when it reads it.
insert into numbers select id + 10, c_smallint, c_int, c_bigint, c_oid, c_bool, c_real, c_double, c_numeric, c_numeric_10_2, c_numeric_5_0, c_numeric_38_10, c_money, c_serial, c_bigserial, c_positive, c_cents from numbers;
update numbers set c_numeric = 0.10, c_numeric_10_2 = 0.1, c_double = 0.1, c_real = 0.1, c_money = '-$92233720368547758.08' where id = 1;
update numbers set c_real = 1e-7, c_double = 1e21, c_numeric_38_10 = 9999999999999999999999999999.9999999999 where id = 2;
update numbers set c_real = 100000000, c_double = 'Infinity', c_numeric = 100 where id = 3;
delete from numbers where id = 4;
insert into texts select id + 10, c_text, c_varchar, c_varchar_10, c_char, c_char_5, c_bpchar, c_name, c_internal, c_bytea, c_json, c_jsonb, c_xml, c_uuid, c_citext, c_ltree, c_hstore, c_mood, c_short, c_bit, c_bit_5, c_varbit, c_varbit_12, c_bit_80, c_tsvector, c_tsquery from texts;
update texts set c_text = null where id = 1;
update texts set c_text = E'\u0001\u001f\u007f/<>&\u2028' where id = 2;
insert into times select id + 10, c_date, c_time, c_time_0, c_time_3, c_time_6, c_timetz, c_timestamp, c_timestamp_0, c_timestamp_3, c_timestamp_6, c_timestamptz, c_timestamptz_3, c_interval, c_interval_3 from times;
set timezone = 'Asia/Kolkata'; insert into times (id, c_timestamptz, c_timetz) values (30, '2024-06-30 12:00:00', '12:00:00');
insert into infinite select id + 10, c_date, c_timestamp, c_timestamptz from infinite;
insert into nans select id + 10, c_numeric, c_numeric_10_2 from nans;
insert into others select id + 10, c_inet, c_cidr, c_macaddr, c_macaddr8, c_point, c_int4range, c_int8range, c_numrange, c_tsrange, c_tstzrange, c_daterange from others;
insert into unknowns select id + 10, c_box, c_line, c_path, c_polygon, c_circle, c_lseg, c_pair, c_regclass, c_multirange, c_lsn, c_int from unknowns;
insert into arrays select id + 10, c_ints, c_bigints, c_smallints, c_texts, c_varchars, c_chars, c_bools, c_reals, c_doubles, c_numerics, c_numerics_10_2, c_dates, c_times, c_timestamps, c_timestamptzs, c_uuids, c_jsons, c_jsonbs, c_moods, c_inets, c_citexts, c_ranges, c_oids from arrays;
insert into deep_arrays select id + 10, c_ints, c_texts from deep_arrays;
insert into bit_arrays select id + 10, c_bytea, c_hstores, c_intervals, c_bits, c_money, c_timetz, c_xml from bit_arrays;
insert into defaults (d_now, d_uuid) values ('2024-06-01', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
insert into defaults (d_int, d_text, d_numeric, d_now, d_date, d_ts, d_uuid, d_json, d_mood, d_double, d_ints, d_interval, d_time) values (null, null, null, null, null, null, null, null, null, null, null, null, null);
update defaults set d_int = null, d_not_null = 8 where id = 1;
--
-- Unchanged TOAST; a changed one; one that becomes null.
update toasted set n = n + 1;
update toasted set big = repeat('z', 5000) where id = 1;
update toasted set big = null where id = 1;
delete from toasted where id = 1;
update toasted_full set n = n + 1;
update toasted_full set big_json = null where id = 1;
delete from toasted_full where id = 1;
-- Keys and replica identities.
update identity_full set a = 11 where id = 1;
update identity_full set id = 3 where id = 2;
update identity_full set a = a where id = 1;
delete from identity_full where id = 1;
update identity_index set a = 11 where id = 1;
update identity_index set code = 'uno' where id = 1;
update identity_index set id = 5 where id = 2;
delete from identity_index where code = 'uno';
update unique_only set c = 2;
update unique_only set a = 9;
delete from unique_only;
insert into identity_nothing values (2, 2);
insert into no_key values (3, 'three');
update no_key_full set b = 'uno' where a = 1;
delete from no_key_full where a = 2;
update composite set c = 11 where a = 'one';
update composite set b = 7, c = 12 where a = 'one';
delete from composite where a = 'two';
insert into composite values (3, 'a,b=c "q"', 1);
update text_key set code = 'k9' where code = 'k1';
delete from text_key where code = 'k2';
update other."Weird Name" set "select" = 'y';
update other."Weird Name" set "Id" = 2;
update other.customers set name = 'Alice B.', ssn = '987-65-4321' where id = 1;
delete from other.customers where id = 2;
insert into empty_table values (1, 'first');
--
-- Transactions: many tables, an empty one, one that is rolled back, savepoints, an insert that is updated and deleted at once.
begin; insert into composite values (10, 'tx', 1); insert into text_key values ('tx', 1); update text_key set v = 2 where code = 'tx'; delete from text_key where code = 'tx'; commit;
begin; commit;
begin; insert into composite values (11, 'rolled back', 1); rollback;
begin; insert into composite values (12, 'kept', 1); savepoint s; insert into composite values (13, 'lost', 1); rollback to s; insert into composite values (14, 'kept too', 1); commit;
insert into composite select n, 'bulk', n from generate_series(1, 50) n;
update composite set c = c + 1 where a = 'bulk';
delete from composite where a = 'bulk' and b > 40;
begin; insert into empty_table values (50, 'prepared'); prepare transaction 'two-phase'; commit prepared 'two-phase';
-- Truncate, alone and together.
truncate truncated;
insert into truncated values (3, 3);
truncate truncated, truncated_too;
insert into truncated_too values (4, 4);
-- Logical messages: within a transaction, and not.
begin; select pg_logical_emit_message(true, 'audit', 'who: "me"'); insert into empty_table values (2, 'with message'); commit;
select pg_logical_emit_message(false, 'audit', 'not transactional');
select pg_logical_emit_message(true, 'binary', '\x00ff80'::bytea);
begin; select pg_logical_emit_message(true, 'audit', 'rolled back'); rollback;
-- Partitions.
insert into parts values (3, 'eu', 3);
update parts set v = 30 where id = 3;
update parts set region = 'us' where id = 3;
delete from parts where id = 1;
--
alter table altered add column c int;
insert into altered values (2, 2, 'two', 22);
update altered set c = 11 where id = 1;
--
alter table altered add column d text not null default 'dflt', add column e numeric(8, 3) default 1.5;
insert into altered (id, a) values (3, 3);
update altered set d = 'changed' where id = 1;
--
alter table altered drop column b;
insert into altered (id, a) values (4, 4);
delete from altered where id = 1;
--
alter table altered rename column a to aa;
insert into altered (id, aa) values (5, 5);
--
alter table altered alter aa type bigint, alter d type varchar(30);
insert into altered (id, aa) values (6, 6000000000);
--
alter table altered add column f mood, add column g int[];
insert into altered (id, f, g) values (7, 'ok', '{1}');
--
alter type mood add value 'new';
--
insert into altered (id, f) values (8, 'new');
insert into texts (id, c_mood) values (30, 'new');
--
alter table altered drop constraint altered_pkey; alter table altered add primary key (id, d);
insert into altered (id, d) values (9, 'two keys');
update altered set d = 'moved' where id = 9;
--
alter table altered replica identity full;
update altered set f = 'sad' where id = 8;
--
alter table text_key alter v type text using v::text;
update text_key set v = 'now text';
--
-- What came by replication from elsewhere, and what did not.
select pg_replication_origin_create('upstream'); select pg_replication_origin_session_setup('upstream');
begin; select pg_replication_origin_xact_setup('0/ABCD', '2024-01-01 00:00:00+00'); insert into empty_table values (60, 'from elsewhere'); update empty_table set v = 'too' where id = 60; commit;
select pg_replication_origin_session_reset(); insert into empty_table values (61, 'from here');
--
