package tenancy

import (
	"encoding/csv"
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/hooks/access"
	"github.com/mambahost/mamba/hooks/audit"
)

// Bounds of a page of the audit log.
const (
	auditPerPage = 50
	maxAuditPage = 1 << 20
)

// auditFilter reads what narrows the log from a query.
func auditFilter(e *core.RequestEvent) (audit.Filter, error) {
	q := e.Request.URL.Query()
	f := audit.Filter{Actor: q.Get("actor"), Action: q.Get("action"), Resource: q.Get("resource")}
	for name, at := range map[string]*time.Time{"from": &f.From, "to": &f.To} {
		text := q.Get(name)
		if text == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return f, access.InvalidField(name, "time_invalid", "Times look like 2026-11-27T14:00:00Z.")
		}
		*at = t
	}
	return f, nil
}

// reader returns who reads the log of which tenant.
func (t *Tenancy) reader(e *core.RequestEvent) (access.Actor, *collections.Tenant, error) {
	a, err := access.From(e)
	if err != nil {
		return a, nil, err
	}
	row, err := t.Current(e.App, a)
	if err != nil {
		return a, nil, err
	}
	return a, row, t.Can(e.App, a, "audit.read", Resource{Tenant: row.Id})
}

func (t *Tenancy) audit(e *core.RequestEvent) error {
	_, row, err := t.reader(e)
	if err != nil {
		return err
	}
	f, err := auditFilter(e)
	if err != nil {
		return err
	}
	page := 1
	if text := e.Request.URL.Query().Get("page"); text != "" {
		if page, err = strconv.Atoi(text); err != nil || page < 1 || page > maxAuditPage {
			return access.InvalidField("page", "out_of_range", fmt.Sprintf("Pages are counted from 1 to %d.", maxAuditPage))
		}
	}
	list, total, err := audit.List(e.App, row.Id, f, page, auditPerPage)
	if err != nil {
		return err
	}
	return e.JSON(http.StatusOK, map[string]any{"items": list, "page": page, "per_page": auditPerPage, "total": total})
}

// exportAudit writes the log as a file. That somebody took it along is written down first.
func (t *Tenancy) exportAudit(e *core.RequestEvent) error {
	a, row, err := t.reader(e)
	if err != nil {
		return err
	}
	f, err := auditFilter(e)
	if err != nil {
		return err
	}
	var in struct {
		Format string `json:"format"`
	}
	if err := access.Bind(e, &in); err != nil {
		return err
	}
	write, ok := map[string]func(core.App, string, audit.Filter, io.Writer) error{"csv": auditCSV, "json": auditJSON}[in.Format]
	if !ok {
		return access.InvalidField("format", "unknown", "Choose csv or json.")
	}
	err = collections.Tx(e.App, []collections.Lock{audit.Lock(row.Id)}, func(tx core.App) error {
		return t.cfg.Auditor.Write(tx, a.Audit(), audit.Entry{Tenant: row.Id, Action: "audit.export", ResourceType: collections.Tenants, Resource: row.Id,
			Metadata: map[string]any{"format": in.Format, "filter": f.Said()}})
	})
	if err != nil {
		return err
	}
	kind := map[string]string{"csv": "text/csv; charset=utf-8", "json": "application/json"}[in.Format]
	h := e.Response.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Disposition", fmt.Sprintf(`attachment; filename="audit-%s-%s.%s"`, row.Slug(), time.Now().UTC().Format(time.DateOnly), in.Format))
	e.Response.WriteHeader(http.StatusOK)
	// The status is sent: what fails now cuts the file off, which its reader sees.
	return write(e.App, row.Id, f, e.Response)
}

var auditColumns = []string{"seq", "at", "actor_type", "actor", "actor_name", "action", "resource_type", "resource", "address", "user_agent", "request_id", "metadata"}

func auditCSV(app core.App, tenant string, f audit.Filter, to io.Writer) error {
	w := csv.NewWriter(to)
	if err := w.Write(auditColumns); err != nil {
		return err
	}
	err := audit.Each(app, tenant, f, func(l audit.Line) error {
		cells := []string{strconv.FormatInt(l.Seq, 10), l.At.Time().Format(time.RFC3339Nano), l.ActorType, l.Actor, l.ActorName, l.Action, l.ResourceType, l.Resource,
			l.Address, l.UserAgent, l.Request, string(l.Metadata)}
		for i := range cells {
			cells[i] = inert(cells[i])
		}
		return w.Write(cells)
	})
	w.Flush()
	if err != nil {
		return err
	}
	return w.Error()
}

// inert keeps a spreadsheet from taking what somebody typed for a formula (OWASP, CSV injection).
func inert(cell string) string {
	if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}

func auditJSON(app core.App, tenant string, f audit.Filter, to io.Writer) error {
	before := "["
	err := audit.Each(app, tenant, f, func(l audit.Line) error {
		raw, err := json.Marshal(l)
		if err != nil {
			return err
		}
		_, err = io.WriteString(to, before+"\n"+string(raw))
		before = ","
		return err
	})
	if err != nil {
		return err
	}
	if before == "[" {
		_, err = io.WriteString(to, "[]\n")
	} else {
		_, err = io.WriteString(to, "\n]\n")
	}
	return err
}
