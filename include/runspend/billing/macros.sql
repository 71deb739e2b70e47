-- What the SQL of every format may use.

create temp macro unreadable(name, found, allowed) as
  name || ' is ' || coalesce('''' || found || '''', 'empty') || ', which is not ' || allowed;

create temp macro provider_family(name) as case
  when lower(name) similar to '.*(amazon|aws).*' then 'aws'
  when lower(name) similar to '.*(microsoft|azure).*' then 'azure'
  when lower(name) like '%google%' then 'google'
  when lower(name) like '%oracle%' then 'oracle'
  else lower(name)
end;

-- FOCUS 1.0 to 1.2 name the seller in ProviderName and PublisherName; later versions in ServiceProviderName and
-- HostProviderName. Bought from a cloud, both are the cloud; bought through one, the vendor is the publisher.
create temp macro service_provider(stated, provider, publisher) as case
  when stated is not null then stated
  when publisher is null or publisher = provider then provider
  when provider_family(publisher) = provider_family(provider) then provider
  else coalesce(publisher, provider)
end;
create temp macro host_provider(stated, stated_service, provider) as
  coalesce(stated, case when stated_service is null then provider end);

-- DuckDB asks ICU's calendar for every part of a TIMESTAMPTZ, a microsecond each; through the epoch it is arithmetic.
create temp macro utc(t) as make_timestamp(epoch_us(t));
create temp macro day_of(t) as cast(utc(t) as date);
create temp macro month_of(t) as cast(date_trunc('month', utc(t)) as date);
create temp macro is_plausible(t) as
  coalesce(t >= timestamptz '2000-01-01 00:00:00+00' and t < timestamptz '2101-01-01 00:00:00+00', false);
