-- Macros that the SQL of every format may use.

create macro unreadable(name, found, allowed) as
  name || ' is ' || coalesce('''' || found || '''', 'empty') || ', which is not ' || allowed;

create macro provider_family(name) as case
  when lower(name) similar to '.*(amazon|aws).*' then 'aws'
  when lower(name) similar to '.*(microsoft|azure).*' then 'azure'
  when lower(name) like '%google%' then 'google'
  when lower(name) like '%oracle%' then 'oracle'
  else lower(name)
end;

-- FOCUS 1.0 to 1.2 name the seller in ProviderName and PublisherName; later versions in ServiceProviderName and
-- HostProviderName. Bought from a cloud, both are the cloud; bought through one, the vendor is the publisher.
create macro service_provider(stated, provider, publisher) as case
  when stated is not null then stated
  when publisher is null or publisher = provider then provider
  when provider_family(publisher) = provider_family(provider) then provider
  else coalesce(publisher, provider)
end;
create macro host_provider(stated, stated_service, provider) as
  coalesce(stated, case when stated_service is null then provider end);

-- DuckDB asks ICU's calendar for every part of a TIMESTAMPTZ, a microsecond each; through the epoch it is arithmetic.
create macro utc(t) as make_timestamp(epoch_us(t));
create macro day_of(t) as cast(utc(t) as date);
create macro month_of(t) as cast(date_trunc('month', utc(t)) as date);
-- DuckDB reads +99:99 as an offset from UTC and 24:00 as the next day: either moves a charge, possibly to another month. Offsets end at
-- 14:00, and the hours of a day at 23.
create macro is_time(t) as
  not regexp_matches(t, '[0-9][T\s]+24')
  and (not regexp_matches(t, ':[0-9.]+\s*[+-]') or regexp_matches(t, '[+-](0[0-9]|1[0-3])(:?[0-5][0-9])?\s*$|[+-]14(:?00)?\s*$'));
create macro instant(t) as case when is_time(t) then try_cast(t as timestamptz) end;
create macro is_plausible(t) as
  coalesce(t >= timestamptz '2000-01-01 00:00:00+00' and t < timestamptz '2101-01-01 00:00:00+00', false);

-- DuckDB cannot multiply two decimal(38, 22) (it would need 44 decimals), and bignum multiplies through doubles. Three limbs each (whole,
-- the first 11 decimals, the last 11) have exact products that fit; only the product of the last limbs, below 1e-22, is left out. So the
-- product is exact if it has at most 22 decimals, otherwise off by less than one in the 22nd. Null beyond 16 digits before the point. The
-- limbs are wider than their digits: DuckDB multiplies decimals of up to 18 digits in 64 bits and fails where that is not enough.
create macro limb_1(a) as cast(try_cast(a as decimal(16, 0)) as decimal(19, 0));
create macro limb_2(a) as cast(a - limb_1(a) as decimal(19, 11));
create macro limb_3(a) as cast(a - limb_1(a) - limb_2(a) as decimal(22, 22));
create macro exact_product(a, b) as
  try_cast(limb_1(a) * limb_1(b) as decimal(38, 22))
  + try_cast(limb_1(a) * limb_2(b) as decimal(38, 22)) + try_cast(limb_2(a) * limb_1(b) as decimal(38, 22))
  + limb_1(a) * limb_3(b) + limb_3(a) * limb_1(b)
  + cast(limb_2(a) * limb_2(b) as decimal(38, 22))
  + cast(limb_2(a) * limb_3(b) + limb_3(a) * limb_2(b) as decimal(38, 22));

-- A text as DECIMAL(38, 18), null where that would lose a digit: a cast alone rounds silently. 1E-7 and 0.10 are numbers, 1_000 is none.
create macro exact_decimal(t) as case
  when contains(t, '_') then null
  when not contains(lower(t), 'e') and length(rtrim(split_part(trim(t), '.', 2), '0')) <= 18 then try_cast(t as decimal(38, 18))
  when contains(lower(t), 'e')
    and length(rtrim(split_part(split_part(lower(trim(t)), 'e', 1), '.', 2), '0')) - coalesce(try_cast(split_part(lower(trim(t)), 'e', 2) as integer), 99) <= 18
    then try_cast(t as decimal(38, 18))
end;

-- The product of two DECIMAL(38, 18) (exact_decimal) to 22 decimals, rounded once, half away from zero. Wholes and fractions are
-- multiplied separately: three of the four products have at most 18 decimals, the fourth 36 and a value below 1.
-- Null beyond 16 digits before the point, which no cost column holds.
create macro whole_part(d) as try_cast(trunc(d) as decimal(18, 0));
create macro fraction_part(d) as cast(d - trunc(d) as decimal(18, 18));
create macro rounded_product(a, b) as
  try_cast(cast(whole_part(a) as decimal(19, 0)) * whole_part(b) as decimal(38, 22))
  + try_cast(cast(whole_part(a) as decimal(19, 0)) * fraction_part(b) as decimal(38, 22))
  + try_cast(cast(fraction_part(a) as decimal(19, 18)) * whole_part(b) as decimal(38, 22))
  + cast(cast(fraction_part(a) as decimal(19, 18)) * fraction_part(b) as decimal(38, 22));

-- A text that begins with a key instead of an object lacks its braces: Azure's tags and details.
create macro json_braces(t) as case when trim(t) = '""' then null when starts_with(ltrim(t), '"') then '{' || t || '}' else t end;

-- Days of Azure exports, whose order only the format shows. Null for all other texts.
create macro azure_day(t) as case
  when regexp_full_match(t, '\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d([.]\d+)?(Z|[+]00(:?00)?)?)?') then cast(timezone('UTC', instant(t)) as date)
  when regexp_full_match(t, '\d\d/\d\d/\d{4}') then cast(try_strptime(t, '%m/%d/%Y') as date)
end;

-- 1 / size if it has a finite number of decimals, otherwise null. The shortest text of the double is the intended number.
create macro block_inverse(size) as case
  when size > 0 and exact_product(try_cast(cast(1.0e0 / size as varchar) as decimal(38, 22)), cast(size as decimal(38, 22))) = 1
    then try_cast(cast(1.0e0 / size as varchar) as decimal(38, 22))
end;

-- DuckDB reads 1_000 as a thousand, but no bill means that.
create macro number(t) as try_cast(case when not contains(t, '_') then t end as decimal(38, 22));
