CREATE OR REPLACE FUNCTION {{c}}.randomblob(n int) RETURNS bytea LANGUAGE plpgsql VOLATILE AS $$
DECLARE b bytea := '';
BEGIN
  WHILE length(b) < n LOOP b := b || decode(replace(gen_random_uuid()::text, '-', ''), 'hex'); END LOOP;
  RETURN substr(b, 1, greatest(n, 1));
END $$;
CREATE OR REPLACE FUNCTION {{c}}.hex(b bytea) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT upper(encode(b,'hex')) $$;
CREATE OR REPLACE FUNCTION {{c}}.hex(t text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT upper(encode(convert_to(t,'UTF8'),'hex')) $$;
CREATE OR REPLACE FUNCTION {{c}}.instr(a text, b text) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT strpos(a,b)';
CREATE OR REPLACE FUNCTION {{c}}.radians(t text) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT pg_catalog.radians({{c}}.pb_num(t))';
CREATE OR REPLACE FUNCTION {{c}}.radians(v {{c}}.value) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT pg_catalog.radians({{c}}.pb_num(v))';
CREATE OR REPLACE FUNCTION {{c}}.round(x double precision, n int) RETURNS double precision LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT pg_catalog.round(x::numeric, n)::double precision';
CREATE OR REPLACE FUNCTION {{c}}.typeof(anyelement) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN $1 IS NULL THEN 'null' WHEN pg_typeof($1)::text IN ('bigint','integer','smallint','boolean') THEN 'integer' WHEN pg_typeof($1)::text IN ('double precision','numeric','real') THEN 'real' WHEN pg_typeof($1)::text = 'bytea' THEN 'blob' ELSE 'text' END $$;

-- dates ------------------------------------------------------------------
CREATE OR REPLACE FUNCTION {{c}}.pb_ts(t text) RETURNS timestamp LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  IF t IS NULL THEN RETURN NULL; END IF;
  IF lower(t) = 'now' THEN RETURN clock_timestamp() AT TIME ZONE 'UTC'; END IF;
  IF t ~ '^[+-]?\d+(\.\d+)?$' THEN RETURN timestamp '2000-01-01 12:00:00' + (t::double precision - 2451545.0) * interval '1 day'; END IF; -- julian day
  IF t !~ '^\d{4}-\d{2}-\d{2}' AND t !~ '^\d{2}:\d{2}' THEN RETURN NULL; END IF;
  IF t ~ '^\d{2}:\d{2}' THEN t := '2000-01-01 ' || t; END IF;
  RETURN (t::timestamptz) AT TIME ZONE 'UTC';
EXCEPTION WHEN others THEN RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION {{c}}.pb_strftime(f text, ts timestamp) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT string_agg(CASE
    WHEN m[2] IS NULL THEN m[1]
    WHEN m[2] = '%' THEN '%'
    WHEN m[2] = 'f' THEN to_char(ts, 'SS.MS') WHEN m[2] = 'Y' THEN to_char(ts, 'YYYY') WHEN m[2] = 'm' THEN to_char(ts, 'MM')
    WHEN m[2] = 'd' THEN to_char(ts, 'DD') WHEN m[2] = 'H' THEN to_char(ts, 'HH24') WHEN m[2] = 'M' THEN to_char(ts, 'MI')
    WHEN m[2] = 'S' THEN to_char(ts, 'SS') WHEN m[2] = 'j' THEN to_char(ts, 'DDD') WHEN m[2] = 'F' THEN to_char(ts, 'YYYY-MM-DD')
    WHEN m[2] = 'T' THEN to_char(ts, 'HH24:MI:SS') WHEN m[2] = 'R' THEN to_char(ts, 'HH24:MI') WHEN m[2] = 'I' THEN to_char(ts, 'HH12')
    WHEN m[2] = 'p' THEN to_char(ts, 'AM') WHEN m[2] = 'P' THEN to_char(ts, 'am') WHEN m[2] = 'e' THEN to_char(ts, 'FMDD')
    WHEN m[2] = 'G' THEN to_char(ts, 'IYYY') WHEN m[2] = 'V' THEN to_char(ts, 'IW')
    WHEN m[2] = 'w' THEN extract(dow from ts)::int::text WHEN m[2] = 'u' THEN extract(isodow from ts)::int::text
    WHEN m[2] = 's' THEN floor(extract(epoch from ts))::bigint::text
    WHEN m[2] = 'J' THEN (extract(epoch from ts) / 86400.0 + 2440587.5)::double precision::text END, '' ORDER BY o)
  FROM regexp_matches(f, '(%(.)|[^%]+)', 'g') WITH ORDINALITY x(m, o) WHERE ts IS NOT NULL $$;
CREATE OR REPLACE FUNCTION {{c}}.pb_shift(t text, m text[]) RETURNS timestamp LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE ts timestamp := {{c}}.pb_ts(t); x text;
BEGIN
  FOREACH x IN ARRAY m LOOP
    x := lower(x);
    IF ts IS NULL THEN RETURN NULL; END IF;
    IF x IN ('utc', 'localtime', 'subsec', 'subsecond', 'auto') THEN NULL;
    ELSIF x = 'unixepoch' THEN ts := to_timestamp({{c}}.pb_num(t)) AT TIME ZONE 'UTC';
    ELSIF x IN ('start of day', 'start of month', 'start of year') THEN ts := date_trunc(substr(x, 10), ts);
    ELSIF x ~ '^[+-]?\d+(\.\d+)? (second|minute|hour|day|month|year)s?$' THEN ts := {{c}}.pb_add(ts, x);
    ELSIF x ~ '^weekday \d$' THEN ts := ts + ((substr(x,9)::int - extract(dow from ts)::int + 7) % 7) * interval '1 day';
    ELSE RETURN NULL;
    END IF;
  END LOOP;
  RETURN ts;
END $$;
-- months are added as SQLite does it: 31 January and a month is 3 March, not the end of February
CREATE OR REPLACE FUNCTION {{c}}.pb_add(ts timestamp, x text) RETURNS timestamp LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN x ~ '^[+-]?\d+ (month|year)' THEN date_trunc('month', ts) + x::interval + (ts - date_trunc('month', ts)) ELSE ts + x::interval END $$;
-- the one-argument form means now
CREATE OR REPLACE FUNCTION {{c}}.strftime(f text) RETURNS text LANGUAGE sql STABLE AS $$ SELECT {{c}}.pb_strftime(f, clock_timestamp() AT TIME ZONE 'UTC') $$;
CREATE OR REPLACE FUNCTION {{c}}.strftime(f text, t text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT {{c}}.pb_strftime(f, {{c}}.pb_ts(t)) $$;
CREATE OR REPLACE FUNCTION {{c}}.strftime(f text, t text, VARIADIC m text[]) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT {{c}}.pb_strftime(f, {{c}}.pb_shift(t, m)) $$;
CREATE OR REPLACE FUNCTION {{c}}.strftime(f text, n numeric) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT {{c}}.pb_strftime(f, {{c}}.pb_ts(n::text)) $$;
CREATE OR REPLACE FUNCTION {{c}}.strftime(f text, n double precision) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT {{c}}.pb_strftime(f, {{c}}.pb_ts(n::text)) $$;
CREATE OR REPLACE FUNCTION {{c}}.strftime(f text, n numeric, VARIADIC m text[]) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT {{c}}.pb_strftime(f, {{c}}.pb_shift(n::text, m)) $$;
CREATE OR REPLACE FUNCTION {{c}}.strftime(f text, n double precision, VARIADIC m text[]) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT {{c}}.pb_strftime(f, {{c}}.pb_shift(n::text, m)) $$;
CREATE OR REPLACE FUNCTION {{c}}.datetime(t text, VARIADIC m text[] DEFAULT '{}') RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT {{c}}.pb_strftime('%F %T', {{c}}.pb_shift(t, m)) $$;
CREATE OR REPLACE FUNCTION {{c}}.date(t text, VARIADIC m text[] DEFAULT '{}') RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT {{c}}.pb_strftime('%F', {{c}}.pb_shift(t, m)) $$;

-- aggregates ---------------------------------------------------------------
CREATE OR REPLACE FUNCTION {{c}}.pb_total(s double precision, v double precision) RETURNS double precision LANGUAGE sql IMMUTABLE AS 'SELECT s + COALESCE(v,0)';
CREATE OR REPLACE AGGREGATE {{c}}.total(double precision) (SFUNC = {{c}}.pb_total, STYPE = double precision, INITCOND = '0');
CREATE OR REPLACE FUNCTION {{c}}.pb_sum(s double precision, v text) RETURNS double precision LANGUAGE sql IMMUTABLE AS 'SELECT CASE WHEN v IS NULL THEN s ELSE COALESCE(s,0) + {{c}}.pb_to_real(v) END';
CREATE OR REPLACE AGGREGATE {{c}}.total(text) (SFUNC = {{c}}.pb_sum, STYPE = double precision, INITCOND = '0');
CREATE OR REPLACE AGGREGATE {{c}}.sum(text) (SFUNC = {{c}}.pb_sum, STYPE = double precision);
CREATE OR REPLACE FUNCTION {{c}}.pb_avg(s double precision[], v text) RETURNS double precision[] LANGUAGE sql IMMUTABLE AS 'SELECT CASE WHEN v IS NULL THEN s ELSE ARRAY[s[1]+{{c}}.pb_to_real(v), s[2]+1] END';
CREATE OR REPLACE FUNCTION {{c}}.pb_avg_end(s double precision[]) RETURNS double precision LANGUAGE sql IMMUTABLE AS 'SELECT CASE WHEN s[2]>0 THEN s[1]/s[2] END';
CREATE OR REPLACE AGGREGATE {{c}}.avg(text) (SFUNC = {{c}}.pb_avg, STYPE = double precision[], FINALFUNC = {{c}}.pb_avg_end, INITCOND = '{0,0}');
CREATE OR REPLACE FUNCTION {{c}}.pb_concat(s text, v text, sep text DEFAULT ',') RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN v IS NULL THEN s WHEN s IS NULL THEN v ELSE s||sep||v END $$;
CREATE OR REPLACE FUNCTION {{c}}.pb_concat2(s text, v text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT {{c}}.pb_concat(s, v) $$;
CREATE OR REPLACE AGGREGATE {{c}}.group_concat(text) (SFUNC = {{c}}.pb_concat2, STYPE = text);
CREATE OR REPLACE AGGREGATE {{c}}.group_concat(text, text) (SFUNC = {{c}}.pb_concat, STYPE = text);
-- any row's value: what a column that is neither grouped nor aggregated means to SQLite
CREATE OR REPLACE FUNCTION {{c}}.pb_first(s anyelement, v anyelement) RETURNS anyelement LANGUAGE sql IMMUTABLE STRICT AS 'SELECT s';
CREATE OR REPLACE AGGREGATE {{c}}.pb_any(anyelement) (SFUNC = {{c}}.pb_first, STYPE = anyelement);
