-- Salaries, one partition a department, 300 employees.
create table salaries (
  employee int not null,
  department text not null,
  name text not null,
  salary numeric(10, 2) not null check (salary > 0),
  valid_from date not null,
  primary key (employee, department)
) partition by list (department);
create table salaries_sales partition of salaries for values in ('sales');
create table salaries_engineering partition of salaries for values in ('engineering');
create table salaries_support partition of salaries for values in ('support');
-- The old salary is in the event too.
alter table salaries_sales replica identity full;
alter table salaries_engineering replica identity full;
alter table salaries_support replica identity full;
insert into salaries
  select n, (array['sales', 'engineering', 'support'])[1 + n % 3], 'Employee ' || n, 40000 + n * 100, date '2026-01-01'
  from generate_series(1, 300) n;

-- So many raises, each a transaction.
create procedure raises(count int) language plpgsql as $$
begin
  for n in 1..count loop
    update salaries set salary = round(salary * 1.01, 2), valid_from = valid_from + 1 where employee = 1 + floor(random() * 300)::int;
    commit;
  end loop;
end $$;
