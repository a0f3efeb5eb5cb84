package compliance

import (
	"archive/zip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
)

// archivePage is how many rows are in memory at once.
const archivePage = 100

// leftOut are the collections with rows of tenants that are in no archive, and why.
var leftOut = map[string]string{
	collections.AuditHeads:        "the seal of the audit log, which is of use on this panel only",
	collections.IdempotencyKeies:  "answers kept for a day for requests that are repeated; some of them held a secret",
	collections.Jobs:              "how the panel does its work",
	collections.Incidents:         "the operator's notes about his machines",
	collections.Notifications:     "messages to single people, each of whom has his own",
	collections.NotificationMutes: "which servers single people want to hear nothing of",
	collections.ExportParts:       "archives like this one",
}

// column describes a field of an archive.
type column struct {
	Name string           `json:"name"`
	Kind collections.Kind `json:"kind"`
	Doc  string           `json:"description,omitempty"`
}

// exported lists the fields of a collection that are in archives: hidden ones hold hashes and secrets, sealed ones secrets.
func (c *Compliance) exported(d collections.Definition) []column {
	out := []column{{"id", collections.Text, ""}}
	for _, f := range d.Columns() {
		i := c.sealedAt(d.Name, f.Name)
		if f.Hidden || i >= 0 && c.Sealed[i].Each == nil {
			continue
		}
		out = append(out, column{f.Name, f.Kind, f.Doc})
	}
	return append(out, column{"created", collections.Date, ""}, column{"updated", collections.Date, ""})
}

func (c *Compliance) sealedAt(table, field string) int {
	for i, s := range c.Sealed {
		if s.Table == table && s.Field == field {
			return i
		}
	}
	return -1
}

// archive writes all of a tenant as a zip file. It reads while everything runs, a page at a time, so files may be a few
// moments apart.
func (c *Compliance) archive(ctx context.Context, to io.Writer, tenant string, progress func(done, all int)) error {
	z := zip.NewWriter(to)
	schema := map[string]any{}
	all := collections.All()
	for i, d := range all {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		progress(i, len(all))
		where := dbx.Expression(dbx.HashExp{"tenant": tenant})
		switch {
		case d.Name == collections.Tenants:
			where = dbx.HashExp{"id": tenant}
		case !d.Tenant || leftOut[d.Name] != "":
			continue
		}
		fields := c.exported(d)
		schema[d.Name] = fields
		f, err := z.Create(d.Name + ".json")
		if err != nil {
			return err
		}
		if err := c.rows(ctx, f, d.Name, fields, where); err != nil {
			return fmt.Errorf("archive %s: %w", d.Name, err)
		}
	}
	people, err := c.people(tenant)
	if err != nil {
		return err
	}
	for name, v := range map[string]any{"people.json": people, "schema.json": map[string]any{"collections": schema, "left_out": leftOut, "made_at": time.Now().UTC().Format(time.RFC3339)}} {
		raw, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return fmt.Errorf("encode %s: %w", name, err)
		}
		if err := put(z, name, raw); err != nil {
			return err
		}
	}
	if err := put(z, "README.txt", []byte(readme)); err != nil {
		return err
	}
	return z.Close()
}

const readme = `This archive holds what Mamba Host keeps about your organisation.

Each file <name>.json is a list of rows. schema.json says what their fields mean, and which
lists are left out and why. people.json lists the members with names and addresses.
Passwords, tokens, API keys, secret variables and addresses of webhooks are not in it.
The files of your game servers are not in it either: download them from the servers.
It was made while your organisation was in use, so lists may be a few moments apart.
Times are in UTC.
`

func put(z *zip.Writer, name string, raw []byte) error {
	f, err := z.Create(name)
	if err == nil {
		_, err = f.Write(raw)
	}
	if err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	return nil
}

// rows writes the rows of a collection as a JSON list, in the order of their ids.
func (c *Compliance) rows(ctx context.Context, to io.Writer, table string, fields []column, where dbx.Expression) error {
	after, before := "", "["
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		var page []*core.Record
		err := c.App.RecordQuery(table).AndWhere(where).AndWhere(dbx.NewExp("[[id]] > {:after}", dbx.Params{"after": after})).
			OrderBy("id").Limit(archivePage).All(&page)
		if err != nil {
			return err
		}
		for _, r := range page {
			row, err := c.plain(r, table, fields)
			if err != nil {
				return err
			}
			if _, err := io.WriteString(to, before+"\n"+string(row)); err != nil {
				return err
			}
			after, before = r.Id, ","
		}
		if len(page) < archivePage {
			break
		}
	}
	end := "\n]\n"
	if before == "[" {
		end = "[]\n"
	}
	_, err := io.WriteString(to, end)
	return err
}

// plain is a row as JSON without what is sealed in it.
func (c *Compliance) plain(r *core.Record, table string, fields []column) ([]byte, error) {
	row := map[string]any{}
	for _, f := range fields {
		v := r.Get(f.Name)
		if i := c.sealedAt(table, f.Name); i >= 0 {
			raw, ok := v.(types.JSONRaw)
			if !ok || len(raw) == 0 || string(raw) == "null" {
				continue
			}
			open, err := c.Sealed[i].Each(string(raw), func(string, string) (string, error) { return "", nil })
			if err != nil {
				return nil, fmt.Errorf("leave out the secrets of %s %s: %w", table, r.Id, err)
			}
			v = json.RawMessage(open)
		}
		row[f.Name] = v
	}
	return json.Marshal(row)
}

// people are the members by name, which their rows do not have.
func (c *Compliance) people(tenant string) ([]map[string]string, error) {
	var rows []struct {
		User  string `db:"user"`
		Name  string `db:"name"`
		Email string `db:"email"`
	}
	err := c.App.ConcurrentDB().NewQuery(`SELECT [[u.id]] AS [[user]], [[u.name]], [[u.email]] FROM {{tenant_members}} [[m]] JOIN {{users}} [[u]] ON [[u.id]] = [[m.user]]
		WHERE [[m.tenant]] = {:tenant} ORDER BY [[m.joined_at]], [[m.id]]`).Bind(dbx.Params{"tenant": tenant}).All(&rows)
	if err != nil {
		return nil, fmt.Errorf("list the members of tenant %s: %w", tenant, err)
	}
	out := []map[string]string{}
	for _, r := range rows {
		out = append(out, map[string]string{"user": r.User, "name": r.Name, "email": r.Email})
	}
	return out, nil
}
