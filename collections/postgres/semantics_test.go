package postgres_test

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/pocketbase/dbx"
)

// ground is the table that the expressions below are asked of. Its columns are what PocketBase makes
// of a text, number, bool and json field.
const ground = "CREATE TABLE `t` (`id` TEXT PRIMARY KEY NOT NULL, `s` TEXT DEFAULT '' NOT NULL, `n` NUMERIC DEFAULT 0 NOT NULL, `b` BOOLEAN DEFAULT FALSE NOT NULL, `j` JSON DEFAULT NULL, `e` TEXT)"

var groundRows = []dbx.Params{
	{"id": "1", "s": "", "n": 0, "b": false, "j": nil, "e": nil},
	{"id": "2", "s": "5", "n": 5, "b": true, "j": "5", "e": ""},
	{"id": "3", "s": "10", "n": 10.5, "b": false, "j": `"5"`, "e": "x"},
	{"id": "4", "s": "abc", "n": -3, "b": true, "j": `{"a":{"b":5},"l":[1,"2",null],"s":"it's","t":true,"f":false,"z":null,"x y":1.5}`, "e": "X"},
	{"id": "5", "s": "ABC", "n": 1e15, "b": true, "j": `["a","b",3]`, "e": "100%"},
	{"id": "6", "s": "a_c", "n": 0.1, "b": false, "j": `"plain"`, "e": `back\slash`},
	{"id": "7", "s": "2026-01-31 10:00:00.000Z", "n": 2460000, "b": false, "j": "true", "e": "ä"},
	{"id": "8", "s": "[1,2]", "n": 2, "b": true, "j": "not json", "e": "Ä"},
	{"id": "9", "s": "5.0", "n": 5.5, "b": false, "j": `{"a":{"b":"5"}}`, "e": "0"},
	{"id": "10", "s": "Zz", "n": 100, "b": true, "j": `{"a":{"b":10}}`, "e": "é"},
}

func eachJSON(c string) string {
	return fmt.Sprintf("json_each(CASE WHEN iif(json_valid(`%[1]s`), json_type(`%[1]s`)='array', FALSE) THEN `%[1]s` ELSE json_array(`%[1]s`) END)", c)
}

func lengthJSON(c string) string {
	return fmt.Sprintf("json_array_length(CASE WHEN iif(json_valid(`%[1]s`), json_type(`%[1]s`)='array', FALSE) THEN `%[1]s` ELSE (CASE WHEN `%[1]s` = '' OR `%[1]s` IS NULL THEN json_array() ELSE json_array(`%[1]s`) END) END)", c)
}

func getJSON(c, path string) string {
	return fmt.Sprintf("(CASE WHEN json_valid(`%[1]s`) THEN JSON_EXTRACT(`%[1]s`, '$%[2]s') ELSE JSON_EXTRACT(json_object('pb', `%[1]s`), '$.pb%[2]s') END)", c, path)
}

// conditions are asked with WHERE; {:v} is the value.
var conditions = []struct {
	where  string
	values []any
}{
	// text and number, as tools/search/filter.go compares them
	{"`s` = {:v}", []any{"5", "abc", 5.0, 10.0, 5, 1e15, 0.1, nil}},
	{"`s` > {:v}", []any{"5", 5.0, 10.0, ""}},
	{"`s` <= {:v}", []any{"abc", 5.0}},
	{"`n` = {:v}", []any{"5", "5.0", " 5 ", "abc", "", 5.0, 5, 10.5, true, nil}},
	{"`n` > {:v}", []any{"5", "abc", "", 5.0, -3, "1e3"}},
	{"`n` < {:v}", []any{"abc", "5", 5.5}},
	{"`n` >= {:v}", []any{"5", "5.5"}},
	{"`b` = {:v}", []any{true, false, 1, 0, "1", "true", 1.0}},
	{"`b` != {:v}", []any{true, "1", ""}},
	{"{:v} = `n`", []any{"5", 5.0, "x"}},
	{"{:v} < `s`", []any{"5", 5.0}},
	{"`n` = ''", []any{nil}}, {"`n` > ''", []any{nil}}, {"`s` = `n`", []any{nil}}, {"`s` < `n`", []any{nil}}, {"`n` IS `s`", []any{nil}}, {"`b` = `n`", []any{nil}},
	{"(`n` = '' OR `n` IS NULL)", []any{nil}}, {"COALESCE(`n`, '') = COALESCE(`s`, '')", []any{nil}}, {"COALESCE(`e`, '') = ''", []any{nil}},
	// null-safe
	{"`e` IS {:v}", []any{nil, "", "x"}}, {"`e` IS NOT {:v}", []any{nil, "", "x"}}, {"`n` IS {:v}", []any{5.0, "5", ""}}, {"`e` IS NOT '' AND `e` IS NOT NULL", []any{nil}},
	{"NOT (`e` IS NULL)", []any{nil}}, {"`e` != {:v}", []any{"x", ""}},
	// like
	{`{:v} = '' OR ` + "`s` LIKE {:v} ESCAPE '\\'", []any{"%abc%", "%A\\_C%", "a_c", "%5%", "%Z%"}}, {"`n` LIKE {:v} ESCAPE '\\'", []any{"%5%", "1%"}}, {"`b` LIKE {:v} ESCAPE '\\'", []any{"%1%"}},
	{"`e` LIKE {:v} ESCAPE '\\'", []any{"%100\\%%", "%k\\\\s%", "x", "ä", "%É%"}}, {"`e` NOT LIKE {:v} ESCAPE '\\'", []any{"x"}}, {"`s` LIKE ('%' || `e` || '%') ESCAPE '\\'", []any{nil}},
	{"`s` LIKE {:v}", []any{`a\_c`, "A_C"}}, {"`s` LIKE `n`", []any{nil}},
	// json
	{getJSON("j", "") + " = {:v}", []any{"5", 5.0, "plain", "not json", 1, 1.0, "a", "true"}}, {getJSON("j", "") + " IS {:v}", []any{nil, "5", 5.0}}, {getJSON("j", "") + " IS NOT NULL", []any{nil}},
	{getJSON("j", ".a.b") + " = {:v}", []any{5.0, "5", 10.0}}, {getJSON("j", ".a.b") + " > {:v}", []any{2.0, "2", "", 7.5}}, {getJSON("j", ".a.b") + " >= {:v}", []any{"2", 5.0}}, {getJSON("j", ".a.b") + " < {:v}", []any{"2", 100.0}},
	{getJSON("j", ".l[1]") + " = {:v}", []any{"2", 2.0}}, {getJSON("j", ".l[0]") + " = {:v}", []any{"1", 1.0}}, {getJSON("j", ".t") + " = {:v}", []any{true, 1.0, "1", "true"}}, {getJSON("j", ".z") + " IS NULL", []any{nil}},
	{getJSON("j", ".s") + " LIKE {:v} ESCAPE '\\'", []any{"%IT'S%"}}, {getJSON("j", ".a") + " LIKE {:v} ESCAPE '\\'", []any{"%5%"}}, {getJSON("j", ".a.b") + " LIKE ('%' || " + getJSON("j", ".a.b") + " || '%') ESCAPE '\\'", []any{nil}},
	{getJSON("j", ".a.b") + " = `n`", []any{nil}}, {getJSON("j", ".a.b") + " < `n`", []any{nil}}, {getJSON("j", ".a.b") + " = `s`", []any{nil}}, {getJSON("j", ".a.b") + " IS " + getJSON("j", ""), []any{nil}},
	{"COALESCE(" + getJSON("j", ".a.b") + ", '') = COALESCE(`s`, '')", []any{nil}}, {getJSON("s", "[0]") + " = {:v}", []any{1.0}}, {getJSON("n", "") + " = {:v}", []any{5.0, "5"}},
	{lengthJSON("j") + " = {:v}", []any{0, 1, 3}}, {lengthJSON("s") + " > {:v}", []any{0.0, 1.0}},
	{"EXISTS (SELECT 1 FROM " + eachJSON("j") + " `x` WHERE `x`.`value` = {:v})", []any{"a", "plain", "5"}}, {"`id` IN (SELECT `value` FROM json_each({:v}))", []any{`["1","4"]`, `["2"]`}},
	{"json_valid(`j`)", []any{nil}}, {"json_type(`j`) == 'array'", []any{nil}}, {"`j` = {:v}", []any{"5", "true", ""}},
	// functions
	{"strftime('%Y-%m', `s`) = {:v}", []any{"2026-01"}}, {"strftime('%Y-%m-%d', `s`, '+1 month') = {:v}", []any{"2026-03-03"}}, {"strftime('%d', `s`, 'start of month', '-1 day') = {:v}", []any{"31"}}, {"strftime('%H:%M:%S %j %w %%', `n`) > {:v}", []any{"00"}},
	{"min(1, max(-1, `n`)) = {:v}", []any{1.0, -1.0, 0.1}}, {"TRUE = 1", []any{nil}}, {"FALSE = 1", []any{nil}}, {"1=1", []any{nil}}, {"0=1", []any{nil}},
	{"CAST(`s` AS REAL) >= {:v}", []any{5.0, 2026.0}}, {"CAST(`s` AS INT) = {:v}", []any{5, 0}}, {"CAST(`n` AS TEXT) = {:v}", []any{"5", "0.1"}}, {"instr(`s`, {:v}) > 0", []any{"b"}},
	{"LOWER(`s`) = {:v}", []any{"abc"}}, {"length(`s`) = {:v}", []any{3}}, {"`n` IN ({:v}, 10.5)", []any{5.0, "5"}}, {"`s` IN ({:v}, 'abc')", []any{"5", 5}}, {"`n` BETWEEN {:v} AND 6", []any{1, "5"}},
	{"`e` = {:v} COLLATE NOCASE", []any{"X", "x"}},
}

// known are the conditions in which the databases differ; docs/adr/0014-postgresql.md says why.
var known = map[string]bool{
	// elements that json_each gives are texts
	"EXISTS (SELECT 1 FROM " + eachJSON("j") + " `x` WHERE `x`.`value` = {:v}) with \"5\"": true,
}

func TestConditionsMatchTheSameRows(t *testing.T) {
	t.Parallel()
	dbs := grounded(t)
	asked := 0
	for _, c := range conditions {
		for _, v := range c.values {
			asked++
			name := fmt.Sprintf("%s with %#v", c.where, v)
			lite, pg := matching(dbs["sqlite"], c.where, v), matching(dbs["postgres"], c.where, v)
			if (lite != pg) != known[name] {
				t.Errorf("%s\n  sqlite   %s\n  postgres %s", name, lite, pg)
			}
		}
	}
	t.Logf("%d conditions asked of both", asked)
}

func matching(db *dbx.DB, where string, value any) string {
	var ids []string
	q := db.NewQuery("SELECT `id` FROM `t` WHERE " + where + " ORDER BY `_rowid_`")
	if strings.Contains(where, "{:v}") {
		q.Bind(dbx.Params{"v": value})
	}
	if err := q.Column(&ids); err != nil {
		return "error: " + err.Error()
	}
	return strings.Join(ids, " ")
}

// orders are sort keys as PocketBase writes them.
var orders = []string{"`s`", "`s` DESC", "`n`", "`n` DESC, `s`", "`b`, `id` DESC", "`e`, `id`", "`e` DESC, `id`", "`_rowid_`", "`_rowid_` DESC",
	getJSON("j", "") + ", `id`", getJSON("j", "") + " DESC, `id`", getJSON("j", ".a.b") + ", `id`", getJSON("j", ".a.b") + " DESC, `id`", lengthJSON("j") + " DESC, `id`", "lower(`s`), `id`", "CASE WHEN `n` > 5 THEN NULL ELSE `n` END, `id`"}

// grounded is both databases with the table t and its rows.
func grounded(t *testing.T) map[string]*dbx.DB {
	t.Helper()
	dbs := both(t)
	for _, db := range dbs {
		exec(t, db, ground)
		for _, row := range groundRows {
			_, err := db.Insert("t", row).Execute()
			must(t, err)
		}
	}
	return dbs
}

func TestOrdersAreTheSame(t *testing.T) {
	t.Parallel()
	dbs := grounded(t)
	for _, o := range orders {
		got := map[string]string{}
		for name, db := range dbs {
			var ids []string
			if err := db.NewQuery("SELECT `id` FROM `t` ORDER BY " + o).Column(&ids); err != nil {
				t.Errorf("%s: %s: %v", name, o, err)
			}
			got[name] = strings.Join(ids, " ")
		}
		if got["sqlite"] != got["postgres"] {
			t.Errorf("%s\n  sqlite   %s\n  postgres %s", o, got["sqlite"], got["postgres"])
		}
	}
}

// selected are results whose values and names must be the same.
var selected = []string{
	"SELECT * FROM `t` ORDER BY `_rowid_`",
	"SELECT `n`, `b`, `j` FROM `t` ORDER BY `_rowid_`",
	"SELECT COUNT(*) AS `total`, SUM(`n`) AS `sum`, MAX(`s`) AS `max`, MIN(`n`) AS `min`, COUNT(DISTINCT `b`) FROM `t`",
	"SELECT SUM(`s`) AS a, TOTAL(`s`) AS b, GROUP_CONCAT(`id`, '-') AS c FROM `t`",
	"SELECT SUM(`n`) AS a, AVG(`n`) AS b, TOTAL(`n`) AS c, MAX(`e`) AS d FROM `t` WHERE 0=1",
	"SELECT `id`, " + getJSON("j", ".a.b") + " AS `x` FROM `t` ORDER BY `_rowid_`",
	"SELECT `id`, " + getJSON("j", "") + " AS `x` FROM `t` ORDER BY `_rowid_`",
	"SELECT `id`, " + lengthJSON("j") + " AS `x` FROM `t` ORDER BY `_rowid_`",
	"SELECT `t`.`id`, `x`.`value` FROM `t` LEFT JOIN " + eachJSON("j") + " `x` ORDER BY `t`.`_rowid_`, `x`.`value`",
	"SELECT `b`, COUNT(*) AS `c` FROM `t` GROUP BY `b` ORDER BY `b`",
	"SELECT `b`, `s`, MAX(`n`) AS `m` FROM `t` GROUP BY `b`, `s` HAVING MAX(`n`) > 1 ORDER BY `s`",
	"SELECT 'x' AS 'y', 1 AS z, NULL AS w, 1.5 AS v, 2.0 AS u",
	"SELECT `n` + 1, `n` * 2, `n` || 'x', 'a' || `s` FROM `t` ORDER BY `_rowid_`",
	"SELECT strftime('%Y-%m-%d %H:%M:%fZ', '2026-01-02 03:04:05.678Z') AS a, strftime('%s', '1970-01-02') AS b, datetime('2026-01-02 03:04:05') AS c, date('2026-01-31', '+1 month') AS d",
	"SELECT hex('ab') AS a, lower(hex(randomblob(7))) != '' AS b, length(hex(randomblob(20))) AS c, round(2.345, 2) AS d, substr('hello', 2, 3) AS e, instr('hello', 'l') AS f",
	"SELECT CAST('12abc' AS INT) AS a, CAST('1.5e1x' AS REAL) AS b, CAST('' AS INT) AS c, CAST(NULL AS TEXT) AS d, CAST(5.9 AS INT) AS e, CAST(`j` AS NUMERIC) AS f FROM `t` WHERE `id` = '2'",
	"SELECT * FROM (SELECT `id` AS `q`, `n` FROM `t`) ORDER BY `n` LIMIT 2 OFFSET 1",
	"SELECT name, type, `notnull`, pk FROM PRAGMA_TABLE_INFO('t')",
	"SELECT type, name, tbl_name FROM sqlite_master WHERE name NOT LIKE 'sqlite%' ORDER BY name",
	"SELECT (1) FROM sqlite_schema WHERE type IN ('table', 'view') AND LOWER(name) = LOWER('T') LIMIT 1",
	"SELECT iif(`n` > 1, 'a', 'b') AS x, ifnull(`e`, 'none') AS y FROM `t` ORDER BY `_rowid_`",
	"SELECT DISTINCT `t`.* FROM `t` LEFT JOIN `t` `u` ON `u`.`b` = `t`.`b` WHERE `u`.`n` > 4 ORDER BY `t`.`s` LIMIT 4",
	"SELECT DISTINCT `t`.`b` FROM `t` ORDER BY `t`.`b`",
	"SELECT `id` FROM `t` WHERE `id` < '3' UNION SELECT `id` FROM `t` WHERE `id` = '9' ORDER BY 1",
	"WITH x AS (SELECT `id`, `n` FROM `t` WHERE `n` > 5) SELECT COUNT(*) AS c FROM x",
	"SELECT (ROW_NUMBER() OVER(ORDER BY `s`)) AS `r`, `id` FROM `t` ORDER BY `r`",
	"SELECT `id`, (SELECT COUNT(*) FROM `t` `u` WHERE `u`.`b` = `t`.`b`) AS `same` FROM `t` ORDER BY `_rowid_`",
	"SELECT typeof(`s`) AS a, typeof(`e`) AS c FROM `t` WHERE `id` = '2'",
	"SELECT `b`, `s`, COUNT(*) AS c FROM `t` WHERE `id` IN ('1') GROUP BY `b`",
}

func TestResultsAreTheSame(t *testing.T) {
	t.Parallel()
	dbs := grounded(t)
	for _, sql := range selected {
		if lite, pg := result(dbs["sqlite"], sql), result(dbs["postgres"], sql); lite != pg {
			t.Errorf("%s\n  sqlite   %s\n  postgres %s", sql, lite, pg)
		}
	}
}

// result is the names, and each value with its type, in a text.
func result(db *dbx.DB, sql string) string {
	rows, err := db.DB().Query(sql)
	if err != nil {
		return "error: " + err.Error()
	}
	defer rows.Close()
	return read(rows)
}

// read is what a query gave, as text.
func read(rows *sql.Rows) string {
	names, err := rows.Columns()
	if err != nil {
		return "error: " + err.Error()
	}
	var b strings.Builder
	b.WriteString(strings.Join(names, ","))
	for rows.Next() {
		values := make([]any, len(names))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			return "error: " + err.Error()
		}
		b.WriteString("\n   ")
		for i, v := range values {
			if names[i] == "j" || names[i] == "value" { // SQLite keeps the JSON text 5 as a number
				fmt.Fprintf(&b, " %v", *v.(*any))
				continue
			}
			fmt.Fprintf(&b, " %s", plain(*v.(*any)))
		}
	}
	if err := rows.Err(); err != nil {
		return "error: " + err.Error()
	}
	return b.String()
}

// plain writes numbers alike whether they came as 5 or as 5.0: dbx scans both into what the field is.
func plain(v any) string {
	switch x := v.(type) {
	case []byte:
		return fmt.Sprintf("%q", string(x))
	case string:
		return fmt.Sprintf("%q", x)
	case nil:
		return "NULL"
	case int64:
		return fmt.Sprintf("%g", float64(x))
	case float64:
		return fmt.Sprintf("%g", x)
	}
	return fmt.Sprintf("%T %v", v, v)
}
