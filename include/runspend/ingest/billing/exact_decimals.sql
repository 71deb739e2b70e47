-- Macros that read and multiply decimals without losing digits.

-- The product of two decimal(38, 22). DuckDB cannot multiply them, because the product would need 44 decimals, and its bignum multiplies
-- through doubles. So each factor is split into three limbs: the whole part, the first 11 decimals and the last 11. The products of limbs
-- fit and are exact. Only the product of the two last limbs, which is below 1e-22, is left out. The result is exact if the product has at
-- most 22 decimals. Otherwise the error is less than one unit of the 22nd decimal. It is null if there are more than 16 digits before the
-- point. The types of the limbs are wider than their digits. Otherwise DuckDB would multiply decimals of up to 18 digits in 64 bits, and
-- fail if the product does not fit.
create macro limb_1(a) as cast(try_cast(a as decimal(16, 0)) as decimal(19, 0));
create macro limb_2(a) as cast(a - limb_1(a) as decimal(19, 11));
create macro limb_3(a) as cast(a - limb_1(a) - limb_2(a) as decimal(22, 22));
create macro exact_product(a, b) as
  try_cast(limb_1(a) * limb_1(b) as decimal(38, 22))
  + try_cast(limb_1(a) * limb_2(b) as decimal(38, 22)) + try_cast(limb_2(a) * limb_1(b) as decimal(38, 22))
  + limb_1(a) * limb_3(b) + limb_3(a) * limb_1(b)
  + cast(limb_2(a) * limb_2(b) as decimal(38, 22))
  + cast(limb_2(a) * limb_3(b) + limb_3(a) * limb_2(b) as decimal(38, 22));

-- A string as DECIMAL(38, 18), or null if that would lose a digit, because a cast alone rounds silently. 1E-7 and 0.10 are numbers, 1_000
-- is not a number.
create macro exact_decimal(t) as case
  when contains(t, '_') then null
  when not contains(lower(t), 'e') and length(rtrim(split_part(trim(t), '.', 2), '0')) <= 18 then try_cast(t as decimal(38, 18))
  when contains(lower(t), 'e')
    and length(rtrim(split_part(split_part(lower(trim(t)), 'e', 1), '.', 2), '0')) - coalesce(try_cast(split_part(lower(trim(t)), 'e', 2) as integer), 99) <= 18
    then try_cast(t as decimal(38, 18))
end;

-- The product of two DECIMAL(38, 18) of exact_decimal, with 22 decimals. It is rounded once, half away from zero. Whole parts and fractions
-- are multiplied separately. Three of the four products have at most 18 decimals. The fourth has 36 decimals and is below 1.
-- The result is null if it has more than 16 digits before the point, because cost columns cannot store it.
create macro whole_part(d) as try_cast(trunc(d) as decimal(18, 0));
create macro fraction_part(d) as cast(d - trunc(d) as decimal(18, 18));
create macro rounded_product(a, b) as
  try_cast(cast(whole_part(a) as decimal(19, 0)) * whole_part(b) as decimal(38, 22))
  + try_cast(cast(whole_part(a) as decimal(19, 0)) * fraction_part(b) as decimal(38, 22))
  + try_cast(cast(fraction_part(a) as decimal(19, 18)) * whole_part(b) as decimal(38, 22))
  + cast(cast(fraction_part(a) as decimal(19, 18)) * fraction_part(b) as decimal(38, 22));

-- 1 / size if that has a finite number of decimals (22 at most), otherwise null. The shortest text of the double is the intended number.
create macro block_inverse(size) as case
  when size > 0 and exact_product(try_cast(cast(1.0e0 / size as varchar) as decimal(38, 22)), cast(size as decimal(38, 22))) = 1
    then try_cast(cast(1.0e0 / size as varchar) as decimal(38, 22))
end;

-- A string as a number, or null. DuckDB would read 1_000 as a thousand, but bills do not write numbers in that way.
create macro number(t) as try_cast(case when not contains(t, '_') then t end as decimal(38, 22));
