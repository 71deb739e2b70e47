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

-- A string that begins with a key instead of an object lacks its braces: Azure's tags and details.
create macro json_braces(t) as case when trim(t) = '""' then null when starts_with(ltrim(t), '"') then '{' || t || '}' else t end;

-- Days of Azure exports, whose order only the format shows. Null for all other strings.
create macro azure_day(t) as case
  when regexp_full_match(t, '\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d([.]\d+)?(Z|[+]00(:?00)?)?)?') then cast(timezone('UTC', instant(t)) as date)
  when regexp_full_match(t, '\d\d/\d\d/\d{4}') then cast(try_strptime(t, '%m/%d/%Y') as date)
end;
