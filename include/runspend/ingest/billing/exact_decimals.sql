-- Macros that read and multiply decimals without losing a digit.

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

-- A string as DECIMAL(38, 18), null where that would lose a digit: a cast alone rounds silently. 1E-7 and 0.10 are numbers, 1_000 is none.
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

-- 1 / size if it has a finite number of decimals, otherwise null. The shortest text of the double is the intended number.
create macro block_inverse(size) as case
  when size > 0 and exact_product(try_cast(cast(1.0e0 / size as varchar) as decimal(38, 22)), cast(size as decimal(38, 22))) = 1
    then try_cast(cast(1.0e0 / size as varchar) as decimal(38, 22))
end;

-- DuckDB reads 1_000 as a thousand, but no bill means that.
create macro number(t) as try_cast(case when not contains(t, '_') then t end as decimal(38, 22));
