package audit_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mambahost/mamba/hooks/audit"
)

func TestALogIsReadInPagesAndByFilter(t *testing.T) {
	t.Parallel()
	app, l := newApp(t), newLog(t, nil)
	write(t, app, l, acme, 7) // servers srv0 to srv6, by alice
	bob := audit.Actor{Type: "user", ID: "bob"}
	for _, action := range []string{"server.delete", "serverless.create", "tenant.update"} {
		if err := l.Write(app, bob, audit.Entry{Tenant: acme, Action: action, Resource: "srv1"}); err != nil {
			t.Fatal(err)
		}
	}
	write(t, app, l, "globexglobexglo", 3)
	later := time.Now().Add(time.Hour)
	for _, c := range []struct {
		name string
		f    audit.Filter
		want []int64
	}{
		{"all, newest first", audit.Filter{}, []int64{10, 9, 8, 7, 6, 5, 4, 3, 2, 1}},
		{"of one actor", audit.Filter{Actor: "bob"}, []int64{10, 9, 8}},
		{"of one resource", audit.Filter{Resource: "srv1"}, []int64{10, 9, 8, 2}},
		{"one action", audit.Filter{Action: "server.delete"}, []int64{8}},
		{"every action on servers", audit.Filter{Action: "server."}, []int64{8, 7, 6, 5, 4, 3, 2, 1}},
		{"a pattern is none", audit.Filter{Action: "%."}, nil},
		{"two at once", audit.Filter{Actor: "bob", Action: "server."}, []int64{8}},
		{"from then on", audit.Filter{From: later}, nil},
		{"until then", audit.Filter{To: later}, []int64{10, 9, 8, 7, 6, 5, 4, 3, 2, 1}},
	} {
		list, total, err := audit.List(app, acme, c.f, 1, 50)
		var got []int64
		for _, r := range list {
			got = append(got, r.Seq)
		}
		if err != nil || !slices.Equal(got, c.want) || total != int64(len(c.want)) {
			t.Errorf("%s: rows %v of %d, %v", c.name, got, total, err)
		}
		var forward []int64
		err = audit.Each(app, acme, c.f, func(r audit.Line) error { forward = append(forward, r.Seq); return nil })
		slices.Reverse(forward)
		if err != nil || !slices.Equal(forward, c.want) {
			t.Errorf("%s, one after the other: %v, %v", c.name, forward, err)
		}
	}
	list, total, err := audit.List(app, acme, audit.Filter{}, 3, 4)
	if err != nil || len(list) != 2 || list[0].Seq != 2 || total != 10 {
		t.Errorf("the last page: %+v of %d, %v", list, total, err)
	}
}

// A chain that grows while it is verified is not taken for one that somebody has cut.
func TestVerifyingBesideWritersFindsNothing(t *testing.T) {
	t.Parallel()
	app, l := newApp(t), newLog(t, nil)
	var wg sync.WaitGroup
	over := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					write(t, app, l, acme, 5)
				}
			}
		})
	}
	for rows := int64(0); rows < 300; {
		rep, err := l.Verify(app, acme)
		if err != nil || !rep.OK() {
			t.Errorf("%+v, %v", rep, err)
			break
		}
		rows = rep.Rows
	}
	close(over)
	wg.Wait()
}
