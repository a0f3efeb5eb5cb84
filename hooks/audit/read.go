package audit

import (
	"fmt"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
)

// Filter narrows a chain; what is empty does not.
type Filter struct {
	Actor    string // id
	Action   string // whole ("server.create") or of a resource ("server.")
	Resource string // id
	From, To time.Time
}

// Said is the filter for an audit row: what it asks for, and nothing else that a request may have held.
func (f Filter) Said() map[string]any {
	out := map[string]any{}
	for name, v := range map[string]string{"actor": f.Actor, "action": f.Action, "resource": f.Resource} {
		if v != "" {
			out[name] = clean(v, 64)
		}
	}
	for name, at := range map[string]time.Time{"from": f.From, "to": f.To} {
		if !at.IsZero() {
			out[name] = at.UTC().Format(time.RFC3339)
		}
	}
	return out
}

// Line is a row of the log for reading.
type Line struct {
	Seq          int64          `json:"seq"`
	At           types.DateTime `json:"at"`
	Actor        string         `json:"actor"`
	ActorType    string         `json:"actor_type"`
	ActorName    string         `json:"actor_name"`
	Action       string         `json:"action"`
	ResourceType string         `json:"resource_type"`
	Resource     string         `json:"resource"`
	Metadata     types.JSONRaw  `json:"metadata"`
	Address      string         `json:"address"`
	UserAgent    string         `json:"user_agent"`
	Request      string         `json:"request_id"`
}

func line(r *collections.AuditLog) Line {
	return Line{Seq: r.Seq(), At: r.GetDateTime("at"), Actor: r.Actor(), ActorType: r.ActorType(), ActorName: r.ActorName(), Action: r.Action(),
		ResourceType: r.ResourceType(), Resource: r.Resource(), Metadata: metadataOf(r), Address: r.Address(), UserAgent: r.UserAgent(), Request: r.Request()}
}

func (f Filter) where(tenant string) []dbx.Expression {
	out := []dbx.Expression{dbx.HashExp{"tenant": tenant}}
	for column, v := range map[string]string{"actor": f.Actor, "resource": f.Resource} {
		if v != "" {
			out = append(out, dbx.HashExp{column: v})
		}
	}
	switch n := len(f.Action); {
	case n > 0 && f.Action[n-1] == '.': // '/' is what comes after '.'
		out = append(out, dbx.NewExp("[[action]] >= {:action} AND [[action]] < {:above}", dbx.Params{"action": f.Action, "above": f.Action[:n-1] + "/"}))
	case n > 0:
		out = append(out, dbx.HashExp{"action": f.Action})
	}
	if !f.From.IsZero() {
		out = append(out, dbx.NewExp("[[at]] >= {:from}", dbx.Params{"from": collections.Stamp(f.From)}))
	}
	if !f.To.IsZero() {
		out = append(out, dbx.NewExp("[[at]] < {:to}", dbx.Params{"to": collections.Stamp(f.To)}))
	}
	return out
}

// List returns a page (from 1) of a tenant's chain, newest first, and how many rows the filter leaves.
func List(app core.App, tenant string, f Filter, page, perPage int) ([]Line, int64, error) {
	where := f.where(tenant)
	total, err := app.CountRecords(collections.AuditLogs, where...)
	if err != nil {
		return nil, 0, fmt.Errorf("count the audit rows of tenant %q: %w", tenant, err)
	}
	var rows []*collections.AuditLog
	q := app.RecordQuery(collections.AuditLogs).OrderBy("seq DESC").Limit(int64(perPage)).Offset(int64(page-1) * int64(perPage))
	for _, w := range where {
		q.AndWhere(w)
	}
	if err := q.All(&rows); err != nil {
		return nil, 0, fmt.Errorf("read the audit rows of tenant %q: %w", tenant, err)
	}
	out := make([]Line, 0, len(rows))
	for _, r := range rows {
		out = append(out, line(r))
	}
	return out, total, nil
}

// Each calls fn with every row that the filter leaves, oldest first, up to the newest that there is when it begins.
func Each(app core.App, tenant string, f Filter, fn func(Line) error) error {
	newest, err := collections.Every[collections.AuditLog](app, collections.AuditLogs, "seq DESC", 1, dbx.HashExp{"tenant": tenant})
	if err != nil || len(newest) == 0 {
		return err
	}
	end, after := newest[0].Seq(), int64(-1<<53)
	for {
		where := append(f.where(tenant), dbx.NewExp("[[seq]] > {:after} AND [[seq]] <= {:end}", dbx.Params{"after": after, "end": end}))
		rows, err := collections.Every[collections.AuditLog](app, collections.AuditLogs, "seq ASC", verifyPage, where...)
		if err != nil {
			return fmt.Errorf("read the audit rows of tenant %q: %w", tenant, err)
		}
		for _, r := range rows {
			if err := fn(line(r)); err != nil {
				return err
			}
			after = r.Seq()
		}
		if len(rows) < verifyPage {
			return nil
		}
	}
}
