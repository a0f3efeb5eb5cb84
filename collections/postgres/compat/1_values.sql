-- Values of JSON with SQLite's order: every number is less than every text.
-- n is the number; for a text it is NaN, which PostgreSQL sorts after all numbers, and s is the text.
-- So the plain comparison of two rows is SQLite's, for =, <, ORDER BY, DISTINCT and GROUP BY alike.
DO $do$ BEGIN
  IF to_regtype('{{c}}.value') IS NULL THEN CREATE TYPE {{c}}.value AS (n numeric, s text); END IF;
  IF to_regtype('{{c}}.json_text') IS NULL THEN CREATE DOMAIN {{c}}.json_text AS text; END IF;
END $do$;

CREATE OR REPLACE FUNCTION {{c}}.pb_text(v {{c}}.value) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN (v).n = 'NaN' THEN (v).s ELSE (v).n::text END $$;

-- the number that SQLite sees in a text; NULL if it is none
CREATE OR REPLACE FUNCTION {{c}}.pb_num(t text) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN t ~ '^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?\s*$' THEN t::double precision END $$;

CREATE OR REPLACE FUNCTION {{c}}.pb_num(v {{c}}.value) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN (v).n = 'NaN' THEN {{c}}.pb_num((v).s) ELSE (v).n::double precision END $$;

-- CAST(x AS …) as SQLite does it: the longest number that begins the text, else 0
CREATE OR REPLACE FUNCTION {{c}}.pb_to_real(t text) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN t IS NULL THEN NULL ELSE COALESCE(substring(t FROM '^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?)')::double precision, 0) END $$;
CREATE OR REPLACE FUNCTION {{c}}.pb_to_int(t text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN t IS NULL THEN NULL ELSE COALESCE(substring(t FROM '^\s*([+-]?\d{1,18})')::bigint, 0) END $$;
CREATE OR REPLACE FUNCTION {{c}}.pb_to_text(t text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT t';
CREATE OR REPLACE FUNCTION {{c}}.pb_to_real(v {{c}}.value) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN (v).n = 'NaN' THEN {{c}}.pb_to_real((v).s) ELSE (v).n::double precision END $$;
CREATE OR REPLACE FUNCTION {{c}}.pb_to_int(v {{c}}.value) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN (v).n = 'NaN' THEN {{c}}.pb_to_int((v).s) ELSE trunc((v).n)::bigint END $$;
CREATE OR REPLACE FUNCTION {{c}}.pb_to_text(v {{c}}.value) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT {{c}}.pb_text(v)';

CREATE OR REPLACE FUNCTION {{c}}.pb_val(x text) RETURNS {{c}}.value LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN x IS NOT NULL THEN ROW('NaN', x)::{{c}}.value END $$;
CREATE OR REPLACE FUNCTION {{c}}.pb_val(v {{c}}.value) RETURNS {{c}}.value LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT v';
-- whatever else there is
CREATE OR REPLACE FUNCTION {{c}}.pb_to_text(x anyelement) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT x::text';
CREATE OR REPLACE FUNCTION {{c}}.pb_to_text(x boolean) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT CASE WHEN x THEN '1' WHEN NOT x THEN '0' END $$;

DO $do$ DECLARE t text; BEGIN
  FOREACH t IN ARRAY ARRAY['double precision','bigint','integer','smallint','numeric'] LOOP
    EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_to_real(x %s) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS ''SELECT x::double precision''', t);
    EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_to_int(x %s) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS ''SELECT trunc(x::numeric)::bigint''', t);
    EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_to_text(x %s) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS ''SELECT %s''', t,
      -- a whole number has no exponent: SQLite keeps it as an integer
      CASE t WHEN 'double precision' THEN 'CASE WHEN x = trunc(x) AND abs(x) < 9e18 THEN x::bigint::text ELSE x::text END' ELSE 'x::text' END);
    EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_val(x %s) RETURNS {{c}}.value LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT CASE WHEN x IS NOT NULL THEN ROW(x::numeric, '''')::{{c}}.value END $f$', t);
  END LOOP;
  IF NOT EXISTS (SELECT 1 FROM pg_cast WHERE castsource = '{{c}}.value'::regtype AND casttarget = 'text'::regtype) THEN
    CREATE CAST ({{c}}.value AS text) WITH FUNCTION {{c}}.pb_text({{c}}.value) AS IMPLICIT;
  END IF;
END $do$;

-- Operators between kinds that PostgreSQL does not compare. Three rules of SQLite (datatype3.html §4.2):
--   a column of text and a constant: the constant becomes text;
--   a column of numbers and a text: the text becomes a number if it looks like one;
--   else nothing is converted, and every number is less than every text.
-- The driver sends a number as int8 or numeric and columns are double precision or smallint, a text
-- as varchar and columns are text: so the type says which rule holds.
DO $do$
DECLARE op record; t text;
BEGIN
 FOR op IN SELECT * FROM (VALUES ('=','eq'),('<>','ne'),('<','lt'),('<=','le'),('>','gt'),('>=','ge')) v(o,n) LOOP
  FOREACH t IN ARRAY ARRAY['integer','bigint','numeric'] LOOP
   EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a text, b %s) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT a %s b::text $f$', op.n, t, op.o);
   EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a %s, b text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT a::text %s b $f$', op.n, t, op.o);
  END LOOP;
  -- a constant text beside a number that is no column, as count(*) is
  FOREACH t IN ARRAY ARRAY['integer','bigint','numeric'] LOOP
   EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a varchar, b %s) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT CASE WHEN a IS NOT NULL AND b IS NOT NULL THEN %s END $f$', op.n, t, (op.o IN ('>','>=','<>'))::text);
   EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a %s, b varchar) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT CASE WHEN a IS NOT NULL AND b IS NOT NULL THEN %s END $f$', op.n, t, (op.o IN ('<','<=','<>'))::text);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['double precision','smallint'] LOOP
   EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a text, b %s) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT CASE WHEN a IS NULL OR b IS NULL THEN NULL WHEN {{c}}.pb_num(a) IS NULL THEN %s ELSE {{c}}.pb_num(a) %s b::double precision END $f$',
     op.n, t, (op.o IN ('>','>=','<>'))::text, op.o);
   EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a %s, b text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT CASE WHEN a IS NULL OR b IS NULL THEN NULL WHEN {{c}}.pb_num(b) IS NULL THEN %s ELSE a::double precision %s {{c}}.pb_num(b) END $f$',
     op.n, t, (op.o IN ('<','<=','<>'))::text, op.o);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['integer','bigint','numeric'] LOOP
   EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a {{c}}.value, b %s) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT (a).n %s b::numeric $f$', op.n, t, op.o);
   EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a %s, b {{c}}.value) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT a::numeric %s (b).n $f$', op.n, t, op.o);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['double precision','smallint'] LOOP
   EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a {{c}}.value, b %s) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT CASE WHEN a IS NULL THEN NULL ELSE COALESCE({{c}}.pb_num(a)::numeric, ''NaN'') END %s b::numeric $f$', op.n, t, op.o);
   EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a %s, b {{c}}.value) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT a::numeric %s CASE WHEN b IS NULL THEN NULL ELSE COALESCE({{c}}.pb_num(b)::numeric, ''NaN'') END $f$', op.n, t, op.o);
  END LOOP;
  EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a {{c}}.value, b varchar) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT CASE WHEN a IS NULL OR b IS NULL THEN NULL WHEN (a).n = ''NaN'' THEN (a).s %s b::text ELSE %s END $f$', op.n, op.o, (op.o IN ('<','<=','<>'))::text);
  EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a varchar, b {{c}}.value) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT CASE WHEN a IS NULL OR b IS NULL THEN NULL WHEN (b).n = ''NaN'' THEN a::text %s (b).s ELSE %s END $f$', op.n, op.o, (op.o IN ('>','>=','<>'))::text);
  EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a {{c}}.value, b text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT {{c}}.pb_text(a) %s b $f$', op.n, op.o);
  EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a text, b {{c}}.value) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT a %s {{c}}.pb_text(b) $f$', op.n, op.o);

  EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_%s(a {{c}}.value, b {{c}}.value) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT CASE WHEN a IS NULL OR b IS NULL THEN NULL ELSE ROW((a).n, (a).s) %s ROW((b).n, (b).s) END $f$', op.n, op.o);
  IF to_regoperator(format('{{c}}.%s({{c}}.value,{{c}}.value)', op.o)) IS NULL THEN
   EXECUTE format('CREATE OPERATOR {{c}}.%s (LEFTARG = {{c}}.value, RIGHTARG = {{c}}.value, FUNCTION = {{c}}.pb_%s)', op.o, op.n);
  END IF;
  FOREACH t IN ARRAY ARRAY['varchar|integer','varchar|bigint','varchar|numeric','text|integer','text|bigint','text|numeric','text|double precision','text|smallint',
     '{{c}}.value|integer','{{c}}.value|bigint','{{c}}.value|numeric','{{c}}.value|double precision','{{c}}.value|smallint','{{c}}.value|varchar','{{c}}.value|text'] LOOP
   IF to_regoperator(format('{{c}}.%s(%s,%s)', op.o, split_part(t,'|',1), split_part(t,'|',2))) IS NULL THEN
    EXECUTE format('CREATE OPERATOR {{c}}.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = {{c}}.pb_%s)', op.o, split_part(t,'|',1), split_part(t,'|',2), op.n);
   END IF;
   IF to_regoperator(format('{{c}}.%s(%s,%s)', op.o, split_part(t,'|',2), split_part(t,'|',1))) IS NULL THEN
    EXECUTE format('CREATE OPERATOR {{c}}.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = {{c}}.pb_%s)', op.o, split_part(t,'|',2), split_part(t,'|',1), op.n);
   END IF;
  END LOOP;
 END LOOP;
 -- LIKE reads its left side as text, and || joins whatever it is given
 FOREACH t IN ARRAY ARRAY['integer','bigint','numeric','double precision','smallint','{{c}}.value'] LOOP
  EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_like(a %s, b text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT {{c}}.pb_to_text(a) ~~* b $f$', t);
  EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_unlike(a %s, b text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT {{c}}.pb_to_text(a) !~~* b $f$', t);
  IF to_regoperator(format('{{c}}.~~*(%s,text)', t)) IS NULL THEN
   EXECUTE format('CREATE OPERATOR {{c}}.~~* (LEFTARG = %s, RIGHTARG = text, FUNCTION = {{c}}.pb_like)', t);
   EXECUTE format('CREATE OPERATOR {{c}}.!~~* (LEFTARG = %s, RIGHTARG = text, FUNCTION = {{c}}.pb_unlike)', t);
  END IF;
 END LOOP;
 FOREACH t IN ARRAY ARRAY['double precision','{{c}}.value'] LOOP
  EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_join(a %s, b text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT {{c}}.pb_to_text(a) || b $f$', t);
  EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_join(a text, b %s) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT a || {{c}}.pb_to_text(b) $f$', t);
  IF to_regoperator(format('{{c}}.||(%s,text)', t)) IS NULL THEN
   EXECUTE format('CREATE OPERATOR {{c}}.|| (LEFTARG = %s, RIGHTARG = text, FUNCTION = {{c}}.pb_join)', t);
   EXECUTE format('CREATE OPERATOR {{c}}.|| (LEFTARG = text, RIGHTARG = %s, FUNCTION = {{c}}.pb_join)', t);
  END IF;
 END LOOP;
 -- case is ignored natively, so that a unique index can do it
 IF NOT EXISTS (SELECT 1 FROM pg_collation WHERE collname = 'nocase' AND collnamespace = '{{c}}'::regnamespace) THEN
  CREATE COLLATION {{c}}."nocase" (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
 END IF;
END $do$;
