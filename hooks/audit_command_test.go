package hooks

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pocketbase/dbx"

	"github.com/mambahost/mamba/collections"
)

func TestAuditVerifyFindsWhatWasDoneBehindThePanel(t *testing.T) {
	t.Parallel()
	s := settle(t)
	tenant := s.ids["/tenants/"]
	run := func(args ...string) (string, string, error) {
		var out, errs bytes.Buffer
		c := AuditCommand(s.app, s.config)
		c.SetArgs(append([]string{"verify"}, args...))
		c.SetOut(&out)
		c.SetErr(&errs)
		err := c.Execute()
		return out.String(), errs.String(), err
	}
	must(t, s.Audit.WriteHeads(s.app))
	out, errs, err := run()
	if err != nil || !strings.Contains(out, "demo-corp ("+tenant+"): ") || !strings.Contains(out, "the installation: ") || strings.Count(out, "in order") != 2 {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	rows, err := collections.Every[collections.AuditLog](s.app, collections.AuditLogs, "seq", 1, dbx.HashExp{"tenant": tenant, "action": "server.create"})
	must(t, err)
	row := rows[0]
	_, err = s.app.NonconcurrentDB().Update(collections.AuditLogs, dbx.Params{"actor_name": "Mallory"}, dbx.HashExp{"id": row.Id}).Execute()
	must(t, err)
	out, errs, err = run("--tenant", "demo-corp")
	if !errors.Is(err, ErrAuditBroken) || !strings.Contains(errs, "edited at row ") || !strings.Contains(errs, row.Id) || out != "" {
		t.Errorf("%v\n%s%s", err, out, errs)
	}
	if _, _, err := run("--heads", filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrAuditUnread) {
		t.Error("a folder that is not there:", err)
	}
	if _, _, err := run("--tenant", "nobody"); !errors.Is(err, ErrAuditUnread) || !strings.Contains(err.Error(), `"nobody"`) {
		t.Error(err)
	}
	lost := *s.config
	lost.MasterKeyFile = filepath.Join(t.TempDir(), "master.key")
	c := AuditCommand(s.app, &lost)
	c.SetArgs([]string{"verify"})
	if err := c.Execute(); !errors.Is(err, ErrAuditUnread) || errors.Is(err, ErrAuditBroken) {
		t.Error("without its master key:", err)
	}
}
