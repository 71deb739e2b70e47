-- Questions of the FOCUS use case library (https://focus.finops.org/use-cases/), for DuckDB, over files of `runspend export focus`.
-- Each query is Runspend's own and has the title of its use case. How to run them: docs/focus-use-cases.md

-- title: Allocate multi-currency charges per application
select Tags ->> 'team' as application, ServiceProviderName, BillingAccountName, BillingCurrency, sum(BilledCost) as billed
from focus group by all order by billed desc;

-- title: Analyze cost by participating entities
select ServiceProviderName, HostProviderName, InvoiceIssuerName, ServiceName, BillingCurrency, sum(BilledCost) as billed
from focus group by all order by billed desc;

-- title: Analyze effective cost by pricing currency
select PricingCurrency, ServiceProviderName, ServiceName, sum(PricingCurrencyEffectiveCost) as effective_in_pricing_currency
from focus where PricingCurrency is not null group by all;

-- title: Analyze purchase of virtual currency
select ServiceProviderName, ServiceName, PricingUnit, BillingCurrency, sum(PricingQuantity) as bought, sum(BilledCost) as billed
from focus where ChargeCategory = 'Purchase' and PricingUnit = 'Credits' group by all;

-- title: Analyze tag coverage
select ServiceProviderName, 100 * sum(EffectiveCost) filter (Tags ->> 'team' is not null) / sum(EffectiveCost) as tagged_percent
from focus where ChargeCategory = 'Usage' group by all having tagged_percent is not null;

-- title: Analyze total cost by allocated resource
select AllocatedResourceId, AllocatedResourceName, count(distinct ResourceId) as origins, sum(EffectiveCost) as effective
from focus where AllocatedResourceId is not null group by all order by effective desc;

-- title: Determine target of virtual currency usage
select PricingCurrency, ServiceProviderName, ServiceName, SubAccountName, sum(PricingCurrencyEffectiveCost) as used
from focus where PricingCurrency = 'Credits' and ChargeCategory = 'Usage' group by all;

-- title: Identify resources with shared cost allocation
select ResourceId, AllocatedMethodId, count(distinct AllocatedResourceId) as shared_by
from focus where AllocatedMethodId is not null and ResourceId is not null group by all having shared_by > 1 order by shared_by desc;

-- title: Identify sources of billed cost
select ServiceProviderName, HostProviderName, InvoiceIssuerName, InvoiceId, sum(BilledCost) as billed
from focus group by all having billed <> 0;

-- title: Report corrections by subaccount for a previously invoiced billing period
select BillingPeriodStart, SubAccountId, SubAccountName, ServiceCategory, sum(BilledCost) as corrected
from focus where ChargeClass = 'Correction' group by all;

-- title: Track marketplace purchases across providers
select ServiceProviderName, HostProviderName, InvoiceIssuerName, ServiceName, ChargeCategory, sum(BilledCost) as billed
from focus where ServiceProviderName <> HostProviderName group by all;

-- title: Verify accuracy of provider invoices aka invoice reconciliation
select InvoiceIssuerName, InvoiceId, BillingCurrency, sum(BilledCost) as payable
from focus where InvoiceId is not null group by all;

-- title: Analyze costs by service name
select date_trunc('month', BillingPeriodStart) as month, ServiceName, SubAccountName, sum(BilledCost) as billed, sum(EffectiveCost) as effective
from focus group by all order by effective desc;

-- title: Analyze service costs by region
select RegionId, RegionName, ServiceName, sum(EffectiveCost) as effective
from focus where RegionId is not null group by all order by effective desc;

-- title: Compare resource usage month over month
select ResourceId, SkuId, ConsumedUnit,
  sum(ConsumedQuantity) filter (month(ChargePeriodStart) = 10) as october,
  sum(ConsumedQuantity) filter (month(ChargePeriodStart) = 11) as november
from focus where ChargeCategory = 'Usage' and ResourceId is not null group by all;

-- title: Identify anomalous daily spending by subaccount
with days as (select ChargePeriodStart::date as day, SubAccountId, sum(EffectiveCost) as spent from focus group by all)
select *, avg(spent) over (partition by SubAccountId order by day rows between 7 preceding and 1 preceding) as usual from days;

-- title: Identify anomalous daily spending by subaccount and region
with days as (select ChargePeriodStart::date as day, SubAccountId, RegionId, sum(EffectiveCost) as spent from focus group by all)
select *, avg(spent) over (partition by SubAccountId, RegionId order by day rows between 7 preceding and 1 preceding) as usual from days;

-- title: Identify anomalous daily spending by subaccount, region, and service
with days as (select ChargePeriodStart::date as day, SubAccountId, RegionId, ServiceName, sum(EffectiveCost) as spent from focus group by all)
select *, avg(spent) over (partition by SubAccountId, RegionId, ServiceName order by day rows between 7 preceding and 1 preceding) as usual from days;

-- title: Identify unused capacity reservations
select CapacityReservationId, SubAccountId, sum(PricingQuantity) as unused_hours, sum(BilledCost) as billed
from focus where CapacityReservationStatus = 'Unused' group by all;

-- title: Calculate consumption of virtual currency within a billing period
select BillingPeriodStart, ServiceProviderName, PricingCurrency, sum(PricingCurrencyEffectiveCost) as used
from focus where ChargeCategory = 'Usage' and PricingCurrency = 'Credits' group by all;

-- title: Compare billed cost per subaccount to budget
with budget (SubAccountId, amount) as (values ('111122223333', 5000), ('999988887777', 250))
select BillingPeriodStart, SubAccountId, SubAccountName, sum(BilledCost) as billed, any_value(amount) as budget
from focus join budget using (SubAccountId) group by all;

-- title: Track contract commitment burn-down over time
select BillingPeriodStart, element ->> 'ContractCommitmentId' as commitment, sum((element ->> 'ContractCommitmentAppliedCost')::decimal(38, 9)) as applied
from (select BillingPeriodStart, unnest((ContractApplied -> 'Elements')::json[]) as element from focus) group by all;

-- title: Update budgets for each application
select BillingPeriodStart, Tags ->> 'team' as application, sum(BilledCost) as billed
from focus where Tags ->> 'team' is not null group by all;

-- title: Update budgets with billed costs
select BillingPeriodStart, BillingPeriodEnd, ServiceProviderName, sum(BilledCost) as billed from focus group by all;

-- title: Verify accuracy of service provider invoices
select BillingPeriodStart, InvoiceIssuerName, BillingAccountId, BillingAccountName, BillingCurrency, sum(BilledCost) as billed from focus group by all;

-- title: Verify accuracy of services charges across service providers
select BillingPeriodStart, ServiceProviderName, ServiceName, BillingAccountName, BillingCurrency, sum(BilledCost) as billed from focus group by all;

-- title: Verify discount accuracy for a previously invoiced billing period (corrections excluded)
select ServiceProviderName, ServiceName, sum(ListCost) as list, sum(ContractedCost) as contracted, 100 * (1 - sum(ContractedCost) / sum(ListCost)) as discount_percent
from focus where ChargeClass is null and ChargeCategory = 'Usage' and ListCost > 0 group by all;

-- title: Calculate average rate of a component resource
select SkuPriceDetails ->> 'InstanceSeries' as series, RegionName,
  sum(EffectiveCost) / sum(PricingQuantity * (SkuPriceDetails ->> 'CoreCount')::integer) as cost_per_core_hour
from focus where SkuPriceDetails ->> 'CoreCount' is not null and PricingUnit = 'Hours' group by all;

-- title: Forecast amortized costs month over month based on historical trends
select date_trunc('month', ChargePeriodStart) as month, ServiceCategory, ServiceName, ChargeCategory, sum(EffectiveCost) as effective
from focus group by all order by all;

-- title: Forecast cashflow month over month based on historical trends by service
select date_trunc('month', BillingPeriodStart) as month, ServiceCategory, ServiceName, sum(BilledCost) as billed
from focus group by all order by all;

-- title: Get historical usage and rates to enable cost forecasting
select BillingPeriodStart, ServiceName, RegionName, PricingUnit, sum(PricingQuantity) as quantity, sum(EffectiveCost) / sum(PricingQuantity) as rate
from focus where PricingQuantity > 0 group by all;

-- title: Report subaccounts by region
select ServiceProviderName, SubAccountId, SubAccountName, RegionId, RegionName, count(*) as charges
from focus where SubAccountId is not null group by all;

-- title: Understand the billing account or sub account entity
select distinct ServiceProviderName, BillingAccountId, BillingAccountName, BillingAccountType, SubAccountId, SubAccountName, SubAccountType from focus;

-- title: Determine contracted savings by virtual currency
select PricingCurrency, ServiceName, SkuId,
  sum(PricingQuantity * (PricingCurrencyListUnitPrice - PricingCurrencyContractedUnitPrice)::double) as saved_in_pricing_currency,
  sum(PricingQuantity * (ListUnitPrice - ContractedUnitPrice)::double) as saved_in_billing_currency
from focus where PricingCurrencyListUnitPrice > PricingCurrencyContractedUnitPrice group by all;

-- title: Quantify usage of a component resource
select SkuPriceDetails ->> 'InstanceSeries' as series, RegionName, sum(ConsumedQuantity * (SkuPriceDetails ->> 'CoreCount')::integer) as core_hours
from focus where SkuPriceDetails ->> 'CoreCount' is not null and ConsumedUnit = 'Hours' group by all;

-- title: Report effective cost of compute
select BillingPeriodStart, ServiceProviderName, ServiceName, SubAccountName, CommitmentDiscountType, sum(EffectiveCost) as effective
from focus where ServiceCategory = 'Compute' group by all;

-- title: Calculate Commitment Discount Coverage Rate with Eligibility-Adjusted Denominator
select ServiceProviderName, ServiceName, coalesce(sum(EffectiveCost) filter (CommitmentDiscountId is not null), 0) / sum(EffectiveCost) as covered
from focus
where ChargeCategory = 'Usage' and CommitmentDiscountStatus is distinct from 'Unused'
  and (CommitmentDiscountId is not null or contains(CommitmentProgramEligibilityDetails, 'Savings Plan'))
group by all;

-- title: Commitment Discount Effective Cost Breakdown
select CommitmentDiscountId, CommitmentDiscountName, CommitmentDiscountStatus, date_trunc('month', ChargePeriodStart) as month, sum(EffectiveCost) as effective
from focus where CommitmentDiscountId is not null and ChargeCategory = 'Usage' group by all;

-- title: Compare Commitment Opportunities Across Providers (Cross-Provider with SaaS)
with programs as (
  select ServiceProviderName, EffectiveCost, CommitmentDiscountId, unnest((CommitmentProgramEligibilityDetails -> 'CommitmentPrograms')::json[]) ->> 'ProgramType' as program
  from focus where ChargeCategory = 'Usage'
)
select ServiceProviderName, program, sum(EffectiveCost) as eligible, sum(EffectiveCost) filter (CommitmentDiscountId is null) as uncovered
from programs group by all;

-- title: Discount Effectiveness by Service
select ServiceName, sum(ListCost) as list, sum(EffectiveCost) as effective, 100 * (1 - sum(EffectiveCost) / sum(ListCost)) as saved_percent
from focus where ChargeCategory = 'Usage' and ListCost > 0 group by all;

-- title: Identify Eligible Capacity Reservation Spend
select ServiceName, SubAccountName, CapacityReservationStatus, sum(BilledCost) as billed
from focus where ChargeCategory = 'Usage' and contains(CommitmentProgramEligibilityDetails, 'Capacity Reservation') group by all;

-- title: Identify Eligible Uncovered Spend by Program Type
with programs as (
  select ServiceName, BilledCost, unnest((CommitmentProgramEligibilityDetails -> 'CommitmentPrograms')::json[]) ->> 'ProgramType' as program
  from focus where ChargeCategory = 'Usage' and CommitmentDiscountId is null
)
select ServiceName, program, sum(BilledCost) as uncovered from programs group by all;

-- title: Identify unused commitments
select CommitmentDiscountId, CommitmentDiscountType, sum(CommitmentDiscountQuantity) as unused, any_value(CommitmentDiscountUnit) as unit, sum(EffectiveCost) as effective
from focus where CommitmentDiscountStatus = 'Unused' group by all;

-- title: Report commitment discount purchases
select CommitmentDiscountId, CommitmentDiscountType, ChargeFrequency, min(ChargePeriodStart) as first, max(ChargePeriodEnd) as last, sum(BilledCost) as billed
from focus where ChargeCategory = 'Purchase' and CommitmentDiscountId is not null group by all;

-- title: Analyze capacity reservations on compute costs
select coalesce(CapacityReservationStatus, 'none') as reservation, SubAccountName, sum(BilledCost) as billed, sum(EffectiveCost) as effective
from focus where ServiceCategory = 'Compute' group by all;

-- title: Analyze marketplace vendors costs
select ServiceProviderName, InvoiceIssuerName, ServiceName, sum(EffectiveCost) as effective
from focus where InvoiceIssuerName <> ServiceProviderName group by all;

-- title: Analyze resource costs by SKU
select SkuId, SkuPriceId, PricingUnit, ListUnitPrice, sum(PricingQuantity) as quantity, sum(ListCost) as list, sum(EffectiveCost) as effective
from focus where SkuId is not null group by all order by effective desc;

-- title: Analyze service costs by subaccount
select SubAccountId, SubAccountName, ServiceName, sum(EffectiveCost) as effective from focus where SubAccountId is not null group by all;

-- title: Analyze service costs month over month
select ServiceName, sum(EffectiveCost) filter (month(ChargePeriodStart) = 10) as october, sum(EffectiveCost) filter (month(ChargePeriodStart) = 11) as november
from focus group by all;

-- title: Analyze the different metered costs for a particular SKU
select SkuId, SkuMeter, SkuPriceId, PricingUnit, ListUnitPrice, sum(PricingQuantity) as quantity, sum(EffectiveCost) as effective
from focus where SkuMeter is not null group by all;

-- title: Calculate unit economics
select ChargePeriodStart::date as day, sum(EffectiveCost) / sum(ConsumedQuantity) as cost_per_gb
from focus where ConsumedUnit = 'GB' and contains(ChargeDescription, 'transfer') group by all order by day;

-- title: Cash vs. Accrual Comparison by Billing Period
select BillingPeriodStart, ServiceName, sum(BilledCost) as cash, sum(EffectiveCost) as accrual, sum(BilledCost) - sum(EffectiveCost) as difference
from focus group by all order by abs(difference) desc;

-- title: Determine Effective Savings Rate
select 1 - sum(EffectiveCost) / sum(ListCost) as over_list, 1 - sum(EffectiveCost) / sum(ContractedCost) as over_contract
from focus where ChargeCategory = 'Usage' and ListCost > 0;

-- title: Determine Effective Savings Rate by Service
select ServiceProviderName, ServiceName, 1 - sum(EffectiveCost) / sum(ListCost) as over_list, 1 - sum(EffectiveCost) / sum(ContractedCost) as over_contract
from focus where ChargeCategory = 'Usage' and ListCost > 0 group by all;

-- title: Effective Cost by Service and Region
select BillingPeriodStart, ServiceCategory, ServiceName, RegionName, sum(EffectiveCost) as effective
from focus where RegionName is not null group by all;

-- title: Report application cost month over month
select Tags ->> 'team' as application, date_trunc('month', ChargePeriodStart) as month, ServiceName, sum(EffectiveCost) as effective
from focus where Tags ->> 'team' is not null group by all order by all;

-- title: Report corrections for a previously invoiced billing period
select BillingPeriodStart, ServiceProviderName, ChargeCategory, ServiceName, sum(BilledCost) as corrected
from focus where ChargeClass = 'Correction' group by all;

-- title: Report costs by service category
select BillingPeriodStart, BillingCurrency, ServiceCategory, sum(BilledCost) as billed from focus group by all order by billed desc;

-- title: Report costs by service category and subcategory
select BillingPeriodStart, BillingCurrency, ServiceCategory, ServiceSubcategory, sum(BilledCost) as billed from focus group by all order by billed desc;

-- title: Report on initial contract commitments
select ServiceProviderName, element ->> 'ContractCommitmentId' as commitment, sum((element ->> 'ContractCommitmentAppliedCost')::decimal(38, 9)) as applied
from (select ServiceProviderName, unnest((ContractApplied -> 'Elements')::json[]) as element from focus where ChargeCategory = 'Purchase') group by all;

-- title: Report service costs by providers subaccount
select ServiceProviderName, SubAccountId, ServiceName, ChargePeriodStart::date as day, sum(EffectiveCost) as effective
from focus where SubAccountId is not null group by all order by effective desc;

-- title: Report spending across billing periods for a service provider by service category
select ServiceProviderName, BillingPeriodStart, ServiceCategory, ServiceName, BillingCurrency, sum(BilledCost) as billed from focus group by all;

-- title: Analyze credit memos
select BillingPeriodStart, ServiceProviderName, InvoiceId, sum(BilledCost) as credited from focus where ChargeCategory = 'Credit' group by all;

-- title: Analyze cost per compute service for a subaccount
select SubAccountId, ServiceName, ResourceId, sum(PricingQuantity) as quantity, sum(EffectiveCost) as effective
from focus where ServiceCategory = 'Compute' and ResourceId is not null group by all order by effective desc;

-- title: Analyze costs by availability zone for a subaccount
select SubAccountId, RegionName, AvailabilityZone, BillingPeriodStart, sum(EffectiveCost) as effective
from focus where AvailabilityZone is not null group by all order by all;

-- title: Analyze costs of components of a resource
select ResourceId, ResourceName, ResourceType, SkuId, ChargeDescription, sum(EffectiveCost) as effective
from focus where ResourceId is not null group by all;
