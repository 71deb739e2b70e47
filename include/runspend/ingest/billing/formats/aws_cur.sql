-- One row per line item that charges something, plus one per commitment fee for the unused part of the commitment.
-- Reads the view `cur`, whose columns have their CUR 2.0 names. All amounts of a file are net of private discounts, or none is.
-- Sources: AWS, "Line item details", "Savings Plans details", "Reservation details", "Monitoring your On-Demand capacity reservations",
-- "Understanding split cost allocation data".
with in_one_view as (
  select
    *,
    coalesce(line_item_line_item_type, 'none') as line_type,
    -- An amount without a net amount has no discount.
    coalesce(if(is_net, line_item_net_unblended_cost, null), line_item_unblended_cost) as cost,
    coalesce(if(is_net, savings_plan_net_savings_plan_effective_cost, null), savings_plan_savings_plan_effective_cost) as plan_cost,
    coalesce(if(is_net, reservation_net_effective_cost, null), reservation_effective_cost) as reservation_cost,
    coalesce(
      if(is_net, reservation_net_unused_amortized_upfront_fee_for_billing_period, null),
      reservation_unused_amortized_upfront_fee_for_billing_period
    ) as unused_upfront_fee,
    coalesce(if(is_net, reservation_net_unused_recurring_fee, null), reservation_unused_recurring_fee) as unused_recurring_fee
  from (select *, getvariable('is_net') as is_net from cur)
),
-- The meaning of a line item type: the kind of charge, and the kind of commitment that it belongs to.
meant as (
  select
    *,
    coalesce(bill_billing_entity = 'AWS Marketplace', false) as is_marketplace,
    line_item_operation in ('EKSPod-EC2', 'ECSTask-EC2') is true as is_split,
    -- Lines of on-demand capacity reservations: the unused part (UnusedBox, UnusedDed), and all reserved hours, which cost nothing
    -- (Reservation, DedicatedRes).
    regexp_extract(line_item_usage_type, '(?:^|-)(UnusedBox|UnusedDed|Reservation|DedicatedRes)(?::|$)', 1) as reserved,
    line_type in ('Usage', 'SavingsPlanCoveredUsage', 'DiscountedUsage', 'FlatRateSubscription') as is_measured,
    case
      when line_type in ('SavingsPlanCoveredUsage', 'SavingsPlanRecurringFee', 'SavingsPlanUpfrontFee') then 'Spend'
      when line_type = 'Refund' and (savings_plan_savings_plan_a_r_n is not null or ends_with(line_item_product_code, 'SavingsPlans'))
        then 'Spend'
      when line_type in ('DiscountedUsage', 'RIFee') or (line_type = 'Fee' and reservation_reservation_a_r_n is not null) then 'Usage'
    end as commitment,
    case
      when line_type in ('Usage', 'SavingsPlanCoveredUsage', 'DiscountedUsage', 'FlatRateSubscription') then 'Usage'
      when line_type in ('Fee', 'RIFee', 'SavingsPlanRecurringFee', 'SavingsPlanUpfrontFee') then 'Purchase'
      when line_type in ('Tax', 'Credit') then line_type
      when line_type = 'Refund' and line_item_tax_type is not null then 'Tax'
      when line_type = 'Refund' and commitment = 'Spend' then 'Purchase'
      when line_type = 'Refund' or ends_with(line_type, 'Discount') then 'Usage'
      else 'Adjustment'
    end as category,
    -- The first amount that is not a number. It makes the unused part and the effective cost of the fee unknown, which is reported.
    case
      when line_type = 'SavingsPlanRecurringFee' and number(savings_plan_total_commitment_to_date) is null then savings_plan_total_commitment_to_date
      when line_type = 'SavingsPlanRecurringFee' and number(savings_plan_used_commitment) is null then savings_plan_used_commitment
      when line_type = 'RIFee' and unused_upfront_fee is not null and number(unused_upfront_fee) is null then unused_upfront_fee
      when line_type = 'RIFee' and number(unused_recurring_fee) is null then unused_recurring_fee
    end as odd_unused
  from in_one_view
),
charges as (
  select
    *,
    if(line_type in ('SavingsPlanCoveredUsage', 'DiscountedUsage'), '0', cost) as billed,
    case
      when line_type = 'SavingsPlanCoveredUsage' then plan_cost
      when line_type = 'DiscountedUsage' then reservation_cost
      when commitment is not null then coalesce(odd_unused, '0')  -- the fee is in the effective cost of the usage that it covers
      else cost
    end as effective,
    case
      when ends_with(line_type, 'Discount') then '0'
      when is_measured then coalesce(pricing_public_on_demand_cost, if(line_type = 'DiscountedUsage', null, cost))
      else cost
    end as list,
    if(line_type = 'DiscountedUsage', pricing_public_on_demand_cost, cost) as contracted,
    false as is_unused
  from meant
  union all by name
  -- The part of a commitment that was paid for but not used. For Savings Plans, AWS has no net version of the two amounts.
  select *, '0' as billed, unused as effective, '0' as list, '0' as contracted, true as is_unused
  from (
    select
      * replace ('Usage' as category),
      cast(
        if(
          commitment = 'Spend',
          number(savings_plan_total_commitment_to_date) - number(savings_plan_used_commitment),
          coalesce(number(unused_upfront_fee), 0) + coalesce(number(unused_recurring_fee), 0)
        ) as varchar
      ) as unused
    from meant
    where line_type in ('SavingsPlanRecurringFee', 'RIFee')
  )
  where cast(unused as decimal(38, 22)) <> 0
),
named as (
  select
    *,
    line_type in ('Fee', 'RIFee', 'SavingsPlanRecurringFee', 'SavingsPlanUpfrontFee') and commitment is not null as is_commitment,
    case commitment when 'Spend' then savings_plan_savings_plan_a_r_n when 'Usage' then reservation_reservation_a_r_n end as commitment_id,
    coalesce(product_name, json_extract_string(product, '$.product_name')) as stated_service,
    -- The name that AWS uses for a service, and its FOCUS category. This is a map because a join would make the order of rows undefined.
    map {
      'AmazonSageMaker': ['Amazon SageMaker', 'AI and Machine Learning'],
      'AmazonBedrock': ['Amazon Bedrock', 'AI and Machine Learning'],
      'AmazonBedrockService': ['Amazon Bedrock', 'AI and Machine Learning'],
      'AmazonComprehend': ['Amazon Comprehend', 'AI and Machine Learning'],
      'AmazonRekognition': ['Amazon Rekognition', 'AI and Machine Learning'],
      'AmazonTextract': ['Amazon Textract', 'AI and Machine Learning'],
      'MachineLearningSavingsPlans': ['Savings Plans for AWS Machine Learning', 'AI and Machine Learning'],
      'AmazonEC2': ['Amazon Elastic Compute Cloud', 'Compute'],
      'AmazonECS': ['Amazon Elastic Container Service', 'Compute'],
      'AmazonEKS': ['Amazon Elastic Kubernetes Service', 'Compute'],
      'AWSLambda': ['AWS Lambda', 'Compute'],
      'AWSBatch': ['AWS Batch', 'Compute'],
      'ComputeSavingsPlans': ['Savings Plans for AWS Compute usage', 'Compute'],
      'AmazonS3': ['Amazon Simple Storage Service', 'Storage'],
      'AmazonEFS': ['Amazon Elastic File System', 'Storage'],
      'AmazonFSx': ['Amazon FSx', 'Storage'],
      'AmazonECR': ['Amazon EC2 Container Registry (ECR)', 'Storage'],
      'AmazonGlacier': ['Amazon Glacier', 'Storage'],
      'AWSBackup': ['AWS Backup', 'Storage'],
      'AWSDataTransfer': ['AWS Data Transfer', 'Networking'],
      'AmazonVPC': ['Amazon Virtual Private Cloud', 'Networking'],
      'AWSELB': ['Elastic Load Balancing', 'Networking'],
      'AmazonCloudFront': ['Amazon CloudFront', 'Networking'],
      'AmazonRoute53': ['Amazon Route 53', 'Networking'],
      'AmazonRDS': ['Amazon Relational Database Service', 'Databases'],
      'AmazonDynamoDB': ['Amazon DynamoDB', 'Databases'],
      'AmazonElastiCache': ['Amazon ElastiCache', 'Databases'],
      'AmazonRedshift': ['Amazon Redshift', 'Analytics'],
      'AmazonAthena': ['Amazon Athena', 'Analytics'],
      'ElasticMapReduce': ['Amazon Elastic MapReduce', 'Analytics'],
      'AWSGlue': ['AWS Glue', 'Analytics'],
      'AmazonKinesis': ['Amazon Kinesis', 'Analytics'],
      'AmazonCloudWatch': ['AmazonCloudWatch', 'Management and Governance'],
      'AWSCloudTrail': ['AWS CloudTrail', 'Management and Governance'],
      'awskms': ['AWS Key Management Service', 'Security'],
      'AWSSecretsManager': ['AWS Secrets Manager', 'Security']
    }[line_item_product_code] as known
  from charges
)
select
  row_number,
  billed as billed_cost,
  effective as effective_cost,
  list as list_cost,
  contracted as contracted_cost,
  line_item_currency_code as billing_currency,
  bill_payer_account_id as billing_account_id,
  bill_payer_account_name as billing_account_name,
  line_item_usage_account_id as sub_account_id,
  line_item_usage_account_name as sub_account_name,
  bill_billing_period_start_date as billing_period_start,
  bill_billing_period_end_date as billing_period_end,
  line_item_usage_start_date as charge_period_start,
  line_item_usage_end_date as charge_period_end,
  category as charge_category,
  case
    when line_type = 'Refund'
      and month_of(instant(line_item_usage_start_date)) < month_of(instant(bill_billing_period_start_date))
      then 'Correction'
  end as charge_class,
  case
    when category = 'Usage' then 'Usage-Based'
    when line_type in ('RIFee', 'SavingsPlanRecurringFee') then 'Recurring'
    else 'One-Time'
  end as charge_frequency,
  line_item_line_item_description as charge_description,
  bill_invoice_id as invoice_id,
  coalesce(bill_invoicing_entity, if(is_marketplace, null, line_item_legal_entity), 'AWS') as invoice_issuer_name,
  if(is_marketplace, coalesce(line_item_legal_entity, 'AWS Marketplace'), 'AWS') as service_provider_name,
  'AWS' as host_provider_name,
  coalesce(stated_service, known[1], product_servicecode, line_item_product_code) as service_name,
  case
    when product_product_family = 'Data Transfer' or contains(line_item_usage_type, 'DataTransfer') then 'Networking'
    when line_item_product_code = 'AmazonEC2' and contains(line_item_usage_type, 'EBS:') then 'Storage'
    when line_item_product_code = 'AmazonEC2' and regexp_matches(line_item_usage_type, 'NatGateway|LoadBalancer') then 'Networking'
    else coalesce(known[2], 'Other')
  end as service_category,
  line_item_iam_principal as iam_principal,
  if(is_unused or is_commitment, coalesce(commitment_id, line_item_resource_id), line_item_resource_id) as resource_id,
  product_region_code as region_id,
  product_location as region_name,
  line_item_availability_zone as availability_zone,
  if(starts_with(reserved, 'Unused'), line_item_resource_id, null) as capacity_reservation_id,
  if(starts_with(reserved, 'Unused'), 'Unused', null) as capacity_reservation_status,
  if(category = 'Tax', null, product_sku) as sku_id,
  if(category = 'Tax', null, coalesce(pricing_rate_code, pricing_rate_id)) as sku_price_id,
  line_item_usage_type as sku_meter,
  coalesce(product_instance_type, line_item_usage_type) as delivered_instance_type,
  if(is_measured, line_item_usage_amount, null) as consumed_quantity,
  case
    when not is_measured then null
    when lower(pricing_unit) in ('hrs', 'hr', 'hour', 'hours') then 'Hours'
    when pricing_unit is null and regexp_matches(line_item_usage_type, '(Box|Spot|Dedicated|Host)Usage') then 'Hours'
    else pricing_unit
  end as consumed_unit,
  if(is_measured or (category = 'Purchase' and not is_unused), line_item_usage_amount, null) as pricing_quantity,
  if(is_measured or (category = 'Purchase' and not is_unused), pricing_unit, null) as pricing_unit,
  if(is_measured, pricing_public_on_demand_rate, null) as list_unit_price,
  pricing_currency,
  case
    when category <> 'Usage' then null
    when commitment is not null then 'Committed'
    when not is_measured then 'Other'
    -- EC2 and Fargate write SpotUsage. Other services have the word Spot at another position.
    when regexp_matches(line_item_usage_type, '(?i)(^|[^a-z])spot') then 'Dynamic'
    else 'Standard'
  end as pricing_category,
  commitment_id as commitment_discount_id,
  if(commitment_id is null, null, commitment) as commitment_discount_category,
  case
    when commitment_id is null then null
    when commitment = 'Spend' then coalesce(savings_plan_offering_type, 'Savings Plan')
    else 'Reserved Instance'
  end as commitment_discount_type,
  case
    when is_unused then 'Unused'
    when line_type in ('SavingsPlanCoveredUsage', 'DiscountedUsage') then 'Used'
  end as commitment_discount_status,
  coalesce(nullif(resource_tags, '{}'), nullif(named.tags, '{}'), tag_columns) as tags,
  case
    when line_type = 'SavingsPlanNegation' then 'SavingsPlanNegation'  -- cancels the on-demand cost on lines of covered usage
    when reserved in ('Reservation', 'DedicatedRes') and number(cost) = 0 then 'capacity reservation'  -- other lines have the cost of its used and unused machines
    when is_split then 'split cost allocation'  -- the part of a container in a charge that has its own line
  end as skip_reason,
  case
    when is_split and number(cost) <> 0
      then unreadable('line_item_unblended_cost', cost, '0, which split cost allocation data charges')
  end as reject_reason
from named
