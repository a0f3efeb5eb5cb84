-- Whether a text may be JSON at all; saves the cost of an exception for ids and words.
CREATE OR REPLACE FUNCTION {{c}}.pb_maybe_json(t text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT t ~ '^\s*([\[{"\-0-9]|true|false|null)' $$;

CREATE OR REPLACE FUNCTION {{c}}.json_valid(t text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  IF t IS NULL THEN RETURN NULL; END IF;
  IF NOT {{c}}.pb_maybe_json(t) THEN RETURN false; END IF;
  PERFORM t::json;
  RETURN true;
EXCEPTION WHEN others THEN RETURN false;
END $$;

-- a JSON value as json_extract returns it: booleans are 1 and 0, objects and arrays their text
CREATE OR REPLACE FUNCTION {{c}}.pb_value(j json) RETURNS {{c}}.value LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE json_typeof(j) WHEN 'null' THEN NULL
    WHEN 'boolean' THEN ROW(CASE WHEN j #>> '{}' = 'true' THEN 1 ELSE 0 END, '')::{{c}}.value
    WHEN 'number' THEN ROW((j #>> '{}')::numeric, '')::{{c}}.value
    ELSE ROW('NaN', j #>> '{}')::{{c}}.value END $$;

-- $.a.b[1]."c"[#-1] as the path of PostgreSQL's #>
CREATE OR REPLACE FUNCTION {{c}}.pb_path(path text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT COALESCE(array_agg(CASE WHEN m[1] IS NOT NULL THEN m[1] WHEN m[2] IS NOT NULL THEN m[2]
    WHEN m[3] IS NOT NULL THEN '-' || m[3] ELSE m[4] END), '{}')
  FROM regexp_matches(substr(path, 2), '\."([^"]*)"|\[(\d+)\]|\[#-(\d+)\]|\.([^.\[]+)', 'g') m $$;

CREATE OR REPLACE FUNCTION {{c}}.json_extract(t text, path text) RETURNS {{c}}.value LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT {{c}}.pb_value(t::json #> {{c}}.pb_path(path)) $$;

-- dbutils.JSONExtract: the column may hold JSON or any other text
CREATE OR REPLACE FUNCTION {{c}}.pb_json_get(t text, path text) RETURNS {{c}}.value LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  IF t IS NULL THEN RETURN NULL; END IF;
  IF {{c}}.pb_maybe_json(t) THEN
    RETURN {{c}}.pb_value(t::json #> {{c}}.pb_path(path));
  END IF;
  RETURN CASE WHEN path = '$' THEN ROW('NaN', t)::{{c}}.value END;
EXCEPTION WHEN others THEN
  RETURN CASE WHEN path = '$' THEN ROW('NaN', t)::{{c}}.value END;
END $$;
DO $do$ DECLARE t text; BEGIN
  FOREACH t IN ARRAY ARRAY['double precision','bigint','integer','smallint','numeric'] LOOP
    EXECUTE format('CREATE OR REPLACE FUNCTION {{c}}.pb_json_get(x %s, path text) RETURNS {{c}}.value LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $f$ SELECT CASE WHEN path = ''$'' AND x IS NOT NULL THEN ROW(x::numeric, '''')::{{c}}.value END $f$', t);
  END LOOP;
END $do$;
CREATE OR REPLACE FUNCTION {{c}}.pb_json_get(v {{c}}.value, path text) RETURNS {{c}}.value LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN (v).n = 'NaN' THEN {{c}}.pb_json_get((v).s, path) WHEN path = '$' THEN v END $$;

CREATE OR REPLACE FUNCTION {{c}}.json_type(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE r text;
BEGIN
  IF t IS NULL THEN RETURN NULL; END IF;
  r := json_typeof(t::json);
  RETURN CASE r WHEN 'string' THEN 'text' WHEN 'number' THEN CASE WHEN t ~ '[.eE]' THEN 'real' ELSE 'integer' END
    WHEN 'boolean' THEN trim(t) ELSE r END;
EXCEPTION WHEN others THEN RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION {{c}}."json_array"(t text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT json_build_array(t)::text $$;
CREATE OR REPLACE FUNCTION {{c}}."json_array"() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT '[]' $$;
CREATE OR REPLACE FUNCTION {{c}}.json_array_length(t text) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS
$$ BEGIN RETURN json_array_length(t::json); EXCEPTION WHEN others THEN RETURN 0; END $$;
CREATE OR REPLACE FUNCTION {{c}}."json_object"(VARIADIC a text[]) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN count(*) = 0 THEN '{}' ELSE '{' || string_agg(to_json(a[i])::text || ':' || COALESCE(to_json(a[i+1])::text, 'null'), ',' ORDER BY i) || '}' END FROM generate_series(1, cardinality(a), 2) i $$;

-- dbutils.JSONEach: the elements of an array, or the value itself
CREATE OR REPLACE FUNCTION {{c}}.pb_json_each(t text) RETURNS TABLE(key text, value text) LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE ROWS 3 AS $$
BEGIN
  IF t ~ '^\s*\[' THEN
    BEGIN
      RETURN QUERY SELECT (o-1)::text, {{c}}.pb_text({{c}}.pb_value(v)) FROM json_array_elements(t::json) WITH ORDINALITY x(v,o);
      RETURN;
    EXCEPTION WHEN others THEN NULL;
    END;
  END IF;
  key := '0'; value := t; RETURN NEXT;
END $$;
-- a column of numbers is a single value
CREATE OR REPLACE FUNCTION {{c}}.pb_json_each(x double precision) RETURNS TABLE(key text, value text) LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1 AS $$ SELECT '0', x::text $$;
CREATE OR REPLACE FUNCTION {{c}}.pb_json_each(x smallint) RETURNS TABLE(key text, value text) LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1 AS $$ SELECT '0', x::text $$;
CREATE OR REPLACE FUNCTION {{c}}.pb_json_each(x bigint) RETURNS TABLE(key text, value text) LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1 AS $$ SELECT '0', x::text $$;

CREATE OR REPLACE FUNCTION {{c}}.json_each(t text) RETURNS TABLE(key text, value text, type text, atom text, id int, parent int, fullkey text, path text)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE ROWS 3 AS $$
DECLARE j json := t::json;
BEGIN
  IF json_typeof(j) = 'array' THEN
    RETURN QUERY SELECT (o-1)::text, {{c}}.pb_text({{c}}.pb_value(v)), {{c}}.json_type(v::text), {{c}}.pb_text({{c}}.pb_value(v)), o::int, NULL::int, '$['||(o-1)||']', '$'::text FROM json_array_elements(j) WITH ORDINALITY x(v,o);
  ELSIF json_typeof(j) = 'object' THEN
    RETURN QUERY SELECT k, {{c}}.pb_text({{c}}.pb_value(v)), {{c}}.json_type(v::text), {{c}}.pb_text({{c}}.pb_value(v)), o::int, NULL::int, '$.'||k, '$'::text FROM json_each(j) WITH ORDINALITY x(k,v,o);
  ELSE
    RETURN QUERY SELECT NULL::text, {{c}}.pb_text({{c}}.pb_value(j)), {{c}}.json_type(t), {{c}}.pb_text({{c}}.pb_value(j)), 0, NULL::int, '$'::text, '$'::text;
  END IF;
END $$;

-- dbutils.JSONArrayLength: 0 for nothing, 1 for a value that is no array
CREATE OR REPLACE FUNCTION {{c}}.pb_json_len(t text) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  IF t IS NULL OR t = '' THEN RETURN 0; END IF;
  IF t ~ '^\s*\[' THEN
    BEGIN RETURN json_array_length(t::json); EXCEPTION WHEN others THEN NULL; END;
  END IF;
  RETURN 1;
END $$;
CREATE OR REPLACE FUNCTION {{c}}.pb_json_len(x double precision) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT CASE WHEN x IS NULL THEN 0 ELSE 1 END $$;
