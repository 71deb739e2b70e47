-- Out-of-scope lines of machines, and lines that may be for accelerators only. `is_accelerator` decides.
with {outside}
select
  source, coalesce(sub_account_id, '') as sub_account_id, coalesce(service_name, '') as service_name,
  machine_gpus, instance_type, case when instance_type is null then coalesce(sku_meter, charge_description) end as meter, sum(effective_cost) as effective_cost
from outside
where reason = 'default_scope' and (coalesce(machine_gpus, 0) > 0 or instance_type is not null or regexp_contains(coalesce(sku_meter, charge_description, ''), r'(?i)gpu|tpu|nvidia|trainium|inferentia|{pods}'))
group by source, coalesce(sub_account_id, ''), coalesce(service_name, ''), machine_gpus, instance_type, case when instance_type is null then coalesce(sku_meter, charge_description) end
