-- Rides, and the publication that says what an event is: a ride that becomes cancelled.
create table rides (
  id bigint generated always as identity primary key,
  rider text not null,
  driver text not null,
  fare numeric(10, 2) not null,
  status text not null default 'booked' check (status in ('booked', 'driving', 'done', 'cancelled')),
  reason text,
  cancelled_at timestamptz
);
-- The filter looks at the old row too, so all of it goes into the log.
alter table rides replica identity full;
-- An update that leads into the filter is published as an insert (PostgreSQL 15).
create publication rides_cancelled for table rides where (status = 'cancelled');

insert into rides (rider, driver, fare) select 'Rider ' || n, 'Driver ' || n % 50, 5 + n % 40 from generate_series(1, 500) n;

-- So many rides are driven, each in a transaction; every third is cancelled on the way.
create procedure drive(count int) language plpgsql as $$
begin
  for n in 1..count loop
    update rides set status = 'driving' where id = n;
    commit;
    if n % 3 = 0 then
      update rides set status = 'cancelled', reason = 'The rider said: "no show"', cancelled_at = clock_timestamp() where id = n;
    else
      update rides set status = 'done' where id = n;
    end if;
    commit;
  end loop;
end $$;
