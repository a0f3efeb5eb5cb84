package hooks

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"

	"github.com/mambahost/mamba/collections"
)

// T13, the part of downloads: one that waits for its slow reader is cut within a second when the right to it ends,
// whatever ended it.
func TestT13_ADownloadEndsWithItsRight(t *testing.T) {
	t.Parallel()
	s := settle(t)
	tenant, boss := s.ids["/tenants/"], s.as("owner@demo.example").super
	export := s.large(tenant)
	closed := make(chan string, 8)
	web := httptest.NewUnstartedServer(s.mux)
	web.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- c.RemoteAddr().String()
		}
	}
	web.Start()
	t.Cleanup(web.Close)
	begin := func(token string) net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", web.Listener.Addr().String())
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		_, err = fmt.Fprintf(conn, "GET /api/v1/tenants/%s/exports/%s/download HTTP/1.1\r\nHost: panel\r\nX-Download-Token: %s\r\n\r\n", tenant, export, s.intent(token, tenant, export))
		must(t, err)
		head := make([]byte, 12)
		_, err = conn.Read(head)
		must(t, err)
		if string(head) != "HTTP/1.1 200" {
			t.Fatalf("it was answered %q", head)
		}
		return conn // it is not read any further
	}
	second, secondToken := s.owner("second@example.org", tenant)
	waits := begin(secondToken)
	var slowest time.Duration
	for _, end := range []struct {
		name, token string
		run         func()
	}{
		{"the role is taken", secondToken, func() { s.roleOf(second.Id, tenant, "ADMIN") }},
		{"the session ends", boss, func() {
			owner, err := s.app.FindAuthRecordByEmail("users", "owner@demo.example")
			must(t, err)
			owner.SetPassword("another-long-password")
			must(t, s.app.Save(owner))
		}},
	} {
		conn := waits
		if end.token != secondToken {
			conn = begin(end.token)
		}
		began := time.Now()
		end.run()
		select {
		case who := <-closed:
			if who != conn.LocalAddr().String() {
				t.Errorf("%s: another connection was closed", end.name)
			}
			slowest = max(slowest, time.Since(began))
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the download goes on", end.name)
		}
	}
	t.Logf("T13: 2 downloads were cut, slowest %s", slowest.Round(time.Millisecond))
	if slowest > time.Second {
		t.Errorf("it took %s", slowest)
	}
}

// T16, the part of downloads: a reader who takes nothing is not waited for, one who takes a little is.
func TestT16_ADownloadDoesNotWaitForWhoTakesNothing(t *testing.T) {
	t.Parallel()
	s := settle(t)
	s.Compliance.Stall = 500 * time.Millisecond
	tenant, boss := s.ids["/tenants/"], s.as("owner@demo.example").super
	export := s.large(tenant)
	var ended atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer ended.Add(1)
		s.mux.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	begin := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", web.Listener.Addr().String())
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		_, err = fmt.Fprintf(conn, "GET /api/v1/tenants/%s/exports/%s/download HTTP/1.1\r\nHost: panel\r\nX-Download-Token: %s\r\n\r\n", tenant, export, s.intent(boss, tenant, export))
		must(t, err)
		return conn
	}
	const stalled = 20
	for range stalled {
		begin()
	}
	slow := begin()
	began, got := time.Now(), 0
	piece := make([]byte, 128<<10)
	for tick := time.NewTicker(50 * time.Millisecond); ended.Load() < stalled || time.Since(began) < 3*s.Compliance.Stall; <-tick.C {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%d of %d downloads go on that nobody reads", stalled-ended.Load(), stalled)
		}
		n, err := slow.Read(piece)
		if got += n; err != nil {
			t.Fatalf("one that is read was cut off after %s and %d bytes: %v", time.Since(began), got, err)
		}
		if got > 30<<20 {
			t.Fatalf("%d of %d were cut off when a slow reader was done", ended.Load(), stalled)
		}
	}
	t.Logf("T16: %d downloads that nobody read ended within %s, one that was read slowly went on", stalled, time.Since(began).Round(time.Millisecond))
}

// owner makes somebody who holds the role OWNER beside the owner, which only a test can.
func (s *settled) owner(email, tenant string) (*core.Record, string) {
	s.t.Helper()
	token := s.person(email)
	user, err := s.app.FindAuthRecordByEmail("users", email)
	must(s.t, err)
	member := core.GenerateDefaultRandomId()
	for table, row := range map[string]dbx.Params{
		collections.TenantMembers: {"id": member, "tenant": tenant, "user": user.Id},
		collections.RoleBindings:  {"id": core.GenerateDefaultRandomId(), "tenant": tenant, "member": member, "role": s.role("OWNER")},
	} {
		_, err := s.app.NonconcurrentDB().Insert(table, row).Execute()
		must(s.t, err)
	}
	return user, token
}

func (s *settled) role(key string) string {
	s.t.Helper()
	var id string
	must(s.t, s.app.DB().Select("id").From(collections.Roles).Where(dbx.HashExp{"key": key, "tenant": ""}).Row(&id))
	return id
}

// roleOf gives a member another role past the rooms: what ends a right is not what is looked at here.
func (s *settled) roleOf(user, tenant, key string) {
	s.t.Helper()
	var member string
	must(s.t, s.app.DB().Select("id").From(collections.TenantMembers).Where(dbx.HashExp{"user": user, "tenant": tenant}).Row(&member))
	_, err := s.app.NonconcurrentDB().Update(collections.RoleBindings, dbx.Params{"role": s.role(key)}, dbx.HashExp{"member": member}).Execute()
	must(s.t, err)
}

// large puts an archive of 32 MiB into the database, more than the buffers between two sockets hold.
func (s *settled) large(tenant string) string {
	s.t.Helper()
	const parts = 32
	id := core.GenerateDefaultRandomId()
	part := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", 1<<20)))
	_, err := s.app.NonconcurrentDB().Insert(collections.Exports, dbx.Params{"id": id, "tenant": tenant, "user": "", "status": "READY", "bytes": parts << 20, "parts": parts,
		"expires_at": collections.Stamp(time.Now().Add(time.Hour)), "created": collections.Stamp(time.Now())}).Execute()
	must(s.t, err)
	for i := range parts {
		_, err := s.app.NonconcurrentDB().Insert(collections.ExportParts, dbx.Params{"id": core.GenerateDefaultRandomId(), "tenant": tenant, "export": id, "number": i, "data": part}).Execute()
		must(s.t, err)
	}
	return id
}
