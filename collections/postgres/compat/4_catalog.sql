-- An index in SQLite's words, for one that was made without leaving its source.
CREATE OR REPLACE FUNCTION {{c}}.pb_index_sql(d text) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT regexp_replace(regexp_replace(regexp_replace(d, ' USING btree', ''), ' ON [a-zA-Z_0-9"]+\.', ' ON '), '::text', '', 'g') $$;

-- In the order of making, as SQLite's is. sql is the source that the driver left in a comment.
CREATE OR REPLACE VIEW {{c}}.sqlite_master AS
  SELECT type, name, tbl_name, rootpage, sql FROM (
    SELECT CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END AS type, c.relname::text AS name, c.relname::text AS tbl_name, c.oid::bigint AS rootpage,
      CASE c.relkind WHEN 'v' THEN COALESCE(obj_description(c.oid, 'pg_class'), 'CREATE VIEW ' || quote_ident(c.relname) || ' AS ' || rtrim(pg_get_viewdef(c.oid), ';'))
        ELSE 'CREATE TABLE ' || quote_ident(c.relname) END AS sql
      FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r','v','p')
    UNION ALL
    SELECT 'index', CASE WHEN k.oid IS NULL THEN i.relname::text ELSE 'sqlite_autoindex_' || t.relname || '_' || i.oid END, t.relname::text, i.oid::bigint,
      CASE WHEN k.oid IS NULL THEN COALESCE(obj_description(i.oid, 'pg_class'), {{c}}.pb_index_sql(pg_get_indexdef(i.oid))) END
      FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
      LEFT JOIN pg_constraint k ON k.conindid = i.oid AND k.contype IN ('p','u')
     WHERE t.relnamespace = current_schema()::regnamespace) m
  ORDER BY rootpage;
CREATE OR REPLACE VIEW {{c}}.sqlite_schema AS SELECT * FROM {{c}}.sqlite_master;

CREATE OR REPLACE FUNCTION {{c}}.pragma_table_info(tbl text) RETURNS TABLE(cid int, name text, type text, "notnull" int, dflt_value text, pk int) LANGUAGE sql STABLE AS $$
  SELECT (row_number() OVER (ORDER BY a.attnum))::int - 1, a.attname::text,
    CASE WHEN a.atttypid = '{{c}}.json_text'::regtype THEN 'JSON' ELSE CASE format_type(a.atttypid, NULL) WHEN 'text' THEN 'TEXT' WHEN 'smallint' THEN 'BOOLEAN'
      WHEN 'double precision' THEN 'NUMERIC' WHEN 'bigint' THEN 'INTEGER' WHEN 'bytea' THEN 'BLOB' ELSE '' END END,
    a.attnotnull::int,
    CASE WHEN a.atttypid = 'smallint'::regtype THEN CASE pg_get_expr(d.adbin, d.adrelid) WHEN '0' THEN 'FALSE' WHEN '1' THEN 'TRUE' ELSE pg_get_expr(d.adbin, d.adrelid) END
      ELSE regexp_replace(replace(regexp_replace(pg_get_expr(d.adbin, d.adrelid), '::[a-z_".]+', '', 'g'), ' || ', '||'), '^\((.*)\)$', '\1') END,
    COALESCE((SELECT 1 FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY(i.indkey)), 0)
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  WHERE c.relnamespace = current_schema()::regnamespace AND lower(c.relname) = lower(tbl) AND c.relkind IN ('r','v','p') AND a.attname <> '_rowid_'
  ORDER BY a.attnum $$;


-- Views outlive what they read in SQLite, and work again when it is back. Here they are put aside when
-- a table or view under them is dropped, and made anew after the next CREATE.
CREATE TABLE IF NOT EXISTS {{c}}.aside (name text PRIMARY KEY, definition text NOT NULL, source text, made bigint NOT NULL);

CREATE OR REPLACE FUNCTION {{c}}.pb_drop(kind text, object text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE target regclass := to_regclass(quote_ident(current_schema()) || '.' || quote_ident(object));
BEGIN
  IF kind = 'view' THEN DELETE FROM {{c}}.aside WHERE name = object; END IF;
  IF target IS NOT NULL THEN
    INSERT INTO {{c}}.aside (name, definition, source, made)
      WITH RECURSIVE above(oid) AS (
        SELECT r.ev_class FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = target AND r.ev_class <> target
        UNION SELECT r.ev_class FROM above a JOIN pg_depend d ON d.refobjid = a.oid JOIN pg_rewrite r ON r.oid = d.objid WHERE d.classid = 'pg_rewrite'::regclass AND r.ev_class <> a.oid)
      SELECT c.relname, pg_get_viewdef(c.oid), obj_description(c.oid, 'pg_class'), c.oid::bigint
        FROM above JOIN pg_class c USING (oid) WHERE c.relkind = 'v' AND c.relnamespace = current_schema()::regnamespace
      ON CONFLICT (name) DO UPDATE SET definition = excluded.definition, source = excluded.source, made = excluded.made;
  END IF;
  EXECUTE format('DROP %s IF EXISTS %I CASCADE', kind, object);
END $$;

CREATE OR REPLACE FUNCTION {{c}}.pb_restore() RETURNS void LANGUAGE plpgsql AS $$
DECLARE v record; again boolean := true;
BEGIN
  WHILE again LOOP
    again := false;
    FOR v IN SELECT * FROM {{c}}.aside ORDER BY made LOOP
      BEGIN
        EXECUTE format('CREATE VIEW %I AS %s', v.name, v.definition);
        EXECUTE format('COMMENT ON VIEW %I IS %L', v.name, v.source);
        DELETE FROM {{c}}.aside WHERE name = v.name;
        again := true;
      EXCEPTION WHEN duplicate_table THEN DELETE FROM {{c}}.aside WHERE name = v.name;
        WHEN others THEN NULL; -- what it reads is not there, or is another
      END;
    END LOOP;
  END LOOP;
END $$;
