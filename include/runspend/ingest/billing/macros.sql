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

-- FOCUS 1.0 to 1.2 name the seller in ProviderName and PublisherName, later versions in ServiceProviderName and HostProviderName.
-- For a service of the cloud itself, both are the cloud. For a service bought through its marketplace, the vendor is the publisher.
create macro service_provider(stated, provider, publisher) as case
  when stated is not null then stated
  when publisher is null or publisher = provider then provider
  when provider_family(publisher) = provider_family(provider) then provider
  else coalesce(publisher, provider)
end;
create macro host_provider(stated, stated_service, provider) as
  coalesce(stated, case when stated_service is null then provider end);

-- The parts of a TIMESTAMPTZ take DuckDB a microsecond each, because it uses the calendar of ICU. Through the epoch, they are arithmetic.
create macro utc(t) as make_timestamp(epoch_us(t));
create macro day_of(t) as cast(utc(t) as date);
create macro month_of(t) as cast(date_trunc('month', utc(t)) as date);
-- DuckDB reads +99:99 as an offset from UTC, and 24:00 as the next day. Both would move a charge, possibly to another month. So offsets
-- above 14:00 and hours above 23 are not times.
create macro is_time(t) as
  not regexp_matches(t, '[0-9][T\s]+24')
  and (not regexp_matches(t, ':[0-9.]+\s*[+-]') or regexp_matches(t, '[+-](0[0-9]|1[0-3])(:?[0-5][0-9])?\s*$|[+-]14(:?00)?\s*$'));
create macro instant(t) as case when is_time(t) then try_cast(t as timestamptz) end;
create macro is_plausible(t) as
  coalesce(t >= timestamptz '2000-01-01 00:00:00+00' and t < timestamptz '2101-01-01 00:00:00+00', false);

-- A JSON object as text. Azure writes some tags and details without braces, so a text that begins with a key gets braces.
create macro json_braces(t) as case when trim(t) = '""' then null when starts_with(ltrim(t), '"') then '{' || t || '}' else t end;

-- A day of an Azure export, as year-month-day or month/day/year. Null for all other strings.
create macro azure_day(t) as case
  when regexp_full_match(t, '\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d([.]\d+)?(Z|[+]00(:?00)?)?)?') then cast(timezone('UTC', instant(t)) as date)
  when regexp_full_match(t, '\d\d/\d\d/\d{4}') then cast(try_strptime(t, '%m/%d/%Y') as date)
end;
