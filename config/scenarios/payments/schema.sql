-- The bank: 100 accounts with 1000.00 each, and what they pay each other.
create table accounts (
  id int primary key,
  holder text not null,
  balance numeric(14, 2) not null
);
create table payments (
  id bigint generated always as identity primary key,
  debit int not null references accounts,
  credit int not null references accounts,
  amount numeric(14, 2) not null check (amount > 0),
  reference text not null,
  booked timestamp not null default localtimestamp
);
insert into accounts select n, 'Customer ' || n, 1000 from generate_series(1, 100) n;

-- So many payments, each a transaction.
create procedure pay(count int) language plpgsql as $$
declare
  debit int;
  credit int;
  amount numeric;
begin
  for n in 1..count loop
    debit := 1 + floor(random() * 100);
    credit := 1 + (debit + floor(random() * 99)::int) % 100;
    amount := round((0.01 + random() * 100)::numeric, 2);
    update accounts set balance = balance - amount where id = debit;
    update accounts set balance = balance + amount where id = credit;
    insert into payments (debit, credit, amount, reference) values (debit, credit, amount, 'Invoice ' || n);
    commit;
  end loop;
end $$;
