package secrets_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tests"
	"pgregory.net/rapid"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/collections/collectionstest"
	"github.com/mambahost/mamba/hooks/secrets"
)

var here = secrets.Ref{Table: "servers", Row: "srv1", Field: "variables"}

func newApp(t *testing.T) *tests.TestApp {
	t.Helper()
	return collectionstest.New(t)
}

func newMaster(t *testing.T) secrets.Master {
	t.Helper()
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	m, err := secrets.NewMaster(key)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newKeeper(t *testing.T, app core.App, m secrets.Master) *secrets.Keeper {
	t.Helper()
	k, err := secrets.New(app, m)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func seal(t *testing.T, k *secrets.Keeper, app core.App, scope string, ref secrets.Ref, plain string) string {
	t.Helper()
	s, err := k.Seal(app, scope, ref, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestASecretOpensOnlyInItsPlace(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	k := newKeeper(t, app, newMaster(t))
	sealed := seal(t, k, app, "tenantaaaaaaaaa", here, "hunter2")
	seal(t, k, app, "tenantbbbbbbbbb", here, "other")
	for _, c := range []struct {
		name, scope string
		ref         secrets.Ref
		text        string
		want        error
	}{
		{"in its own place it opens", "tenantaaaaaaaaa", here, sealed, nil},
		{"another row", "tenantaaaaaaaaa", secrets.Ref{Table: "servers", Row: "srv2", Field: "variables"}, sealed, secrets.ErrSealed},
		{"another field", "tenantaaaaaaaaa", secrets.Ref{Table: "servers", Row: "srv1", Field: "name"}, sealed, secrets.ErrSealed},
		{"another table", "tenantaaaaaaaaa", secrets.Ref{Table: "nodes", Row: "srv1", Field: "variables"}, sealed, secrets.ErrSealed},
		{"parts that join to the same text", "tenantaaaaaaaaa", secrets.Ref{Table: "serverss", Row: "rv1", Field: "variables"}, sealed, secrets.ErrSealed},
		{"another tenant with a key", "tenantbbbbbbbbb", here, sealed, secrets.ErrSealed},
		{"a scope without a key", "tenantccccccccc", here, sealed, secrets.ErrNoKey},
		{"no version", "tenantaaaaaaaaa", here, strings.TrimPrefix(sealed, "m1:"), secrets.ErrSealed},
		{"a version from the future", "tenantaaaaaaaaa", here, "m2:" + sealed[3:], secrets.ErrSealed},
		{"not base64", "tenantaaaaaaaaa", here, sealed + "!", secrets.ErrSealed},
		{"nothing after the version", "tenantaaaaaaaaa", here, "m1:", secrets.ErrSealed},
	} {
		plain, err := k.Open(app, c.scope, c.ref, c.text)
		if !errors.Is(err, c.want) || c.want == nil && string(plain) != "hunter2" {
			t.Errorf("%s: got %q, %v; want %v", c.name, plain, err, c.want)
		}
	}
	if _, err := k.Seal(app, "", here, nil); err == nil {
		t.Error("sealed without a scope")
	}
	if _, err := k.Seal(app, "a", secrets.Ref{Table: "t", Field: "f"}, nil); err == nil {
		t.Error("sealed without a row")
	}
	if _, err := k.Seal(app, "a", here, make([]byte, 257<<10)); err == nil {
		t.Error("sealed more than the bound")
	}
}

func TestEveryBitOfASealedTextMatters(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	k := newKeeper(t, app, newMaster(t))
	rapid.Check(t, func(r *rapid.T) {
		plain := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(r, "plain")
		a, err := k.Seal(app, secrets.System, here, plain)
		if err != nil {
			r.Fatal(err)
		}
		b, err := k.Seal(app, secrets.System, here, plain)
		if err != nil || a == b {
			r.Fatalf("two seals of one text are alike (%v)", err)
		}
		if got, err := k.Open(app, secrets.System, here, a); err != nil || !bytes.Equal(got, plain) {
			r.Fatalf("round trip: %q %v", got, err)
		}
		raw, _ := base64.RawStdEncoding.DecodeString(a[3:])
		raw[rapid.IntRange(0, len(raw)-1).Draw(r, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(r, "bit")
		if _, err := k.Open(app, secrets.System, here, "m1:"+base64.RawStdEncoding.EncodeToString(raw)); !errors.Is(err, secrets.ErrSealed) {
			r.Fatalf("an altered text: %v", err)
		}
	})
}

func TestAKeyOfARolledBackTransactionIsNeverUsed(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	m := newMaster(t)
	k := newKeeper(t, app, m)
	boom := errors.New("boom")
	var lost string
	if err := collections.Tx(app, nil, func(tx core.App) error {
		lost = seal(t, k, tx, "tenantaaaaaaaaa", here, "one")
		seal(t, k, tx, "tenantaaaaaaaaa", here, "two") // reads the row that is not committed
		return boom
	}); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if _, err := k.Open(app, "tenantaaaaaaaaa", here, lost); !errors.Is(err, secrets.ErrNoKey) {
		t.Fatalf("a key that was never stored opened something: %v", err)
	}
	kept := seal(t, k, app, "tenantaaaaaaaaa", here, "three")
	restarted := newKeeper(t, app, m)
	if got, err := restarted.Open(app, "tenantaaaaaaaaa", here, kept); err != nil || string(got) != "three" {
		t.Fatalf("after a restart: %q %v", got, err)
	}
}

func TestAWrongMasterKeyIsRefusedClearly(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	right, wrong := newMaster(t), newMaster(t)
	if err := newKeeper(t, app, right).Check(app); err != nil {
		t.Fatalf("an empty installation: %v", err)
	}
	sealed := seal(t, newKeeper(t, app, right), app, secrets.System, here, "x")
	if err := newKeeper(t, app, right).Check(app); err != nil {
		t.Fatalf("the right key: %v", err)
	}
	err := newKeeper(t, app, wrong).Check(app)
	if !errors.Is(err, secrets.ErrMasterKey) || !strings.Contains(err.Error(), right.ID()) || !strings.Contains(err.Error(), "start with") {
		t.Fatalf("the wrong key: %v", err)
	}
	if _, err := newKeeper(t, app, wrong).Open(app, secrets.System, here, sealed); !errors.Is(err, secrets.ErrMasterKey) {
		t.Fatalf("open with the wrong key: %v", err)
	}
	// a forged fingerprint does not help: the key itself is tried
	row, err := collections.One[collections.DataKey](app, collections.DataKeies)
	if err != nil {
		t.Fatal(err)
	}
	row.SetMasterID(wrong.ID())
	if err := collections.PermitFor("secrets").Save(app, row); err != nil {
		t.Fatal(err)
	}
	if err := newKeeper(t, app, wrong).Check(app); !errors.Is(err, secrets.ErrMasterKey) {
		t.Fatalf("the wrong key with a forged fingerprint: %v", err)
	}
	if _, err := secrets.New(app, nil); !errors.Is(err, secrets.ErrMasterKey) {
		t.Fatalf("no key: %v", err)
	}
}

func TestADataKeyMovedToAnotherTenantDoesNotOpen(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	m := newMaster(t)
	k := newKeeper(t, app, m)
	sealed := seal(t, k, app, "tenantaaaaaaaaa", here, "x")
	row, err := collections.One[collections.DataKey](app, collections.DataKeies)
	if err != nil {
		t.Fatal(err)
	}
	row.SetScope("tenantbbbbbbbbb")
	if err := collections.PermitFor("secrets").Save(app, row); err != nil {
		t.Fatal(err)
	}
	if _, err := newKeeper(t, app, m).Open(app, "tenantbbbbbbbbb", here, sealed); !errors.Is(err, secrets.ErrMasterKey) {
		t.Fatalf("got %v", err)
	}
}

func TestManySealersMakeOneKeyPerScope(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	m := newMaster(t)
	k := newKeeper(t, app, m)
	const workers, each = 8, 5
	texts := make([][]string, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				s, err := k.Seal(app, fmt.Sprintf("scope%d", i), here, []byte("x"))
				if err != nil {
					t.Error(err)
					return
				}
				texts[w] = append(texts[w], s)
			}
		})
	}
	wg.Wait()
	if n, err := app.CountRecords(collections.DataKeies); err != nil || n != each {
		t.Fatalf("%d keys for %d scopes, %v", n, each, err)
	}
	again := newKeeper(t, app, m)
	for w := range texts {
		for i, s := range texts[w] {
			if _, err := again.Open(app, fmt.Sprintf("scope%d", i), here, s); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestNeitherPlainTextNorKeyReachesTheDisk(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	key := bytes.Repeat([]byte{0xA7, 0x13}, 16)
	m, err := secrets.NewMaster(key)
	if err != nil {
		t.Fatal(err)
	}
	k := newKeeper(t, app, m)
	const canary = "canary-7f3a-plain-text"
	sealed := seal(t, k, app, secrets.System, here, canary)
	if _, err := app.DB().NewQuery("UPDATE data_keys SET master_id = master_id || {:s}").Bind(map[string]any{"s": sealed}).Execute(); err != nil {
		t.Fatal(err) // the sealed text rests in the same file
	}
	if _, err := app.NonconcurrentDB().NewQuery("PRAGMA wal_checkpoint(TRUNCATE)").Execute(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for name, b := range collectionstest.Stored(t, app) {
		if bytes.Contains(b, []byte(sealed)) {
			seen++
		}
		for _, bad := range []string{canary, string(key), base64.StdEncoding.EncodeToString(key), string(m.Derive("audit"))} {
			if bytes.Contains(b, []byte(bad)) {
				t.Errorf("%s holds %q", name, bad)
			}
		}
	}
	if seen == 0 {
		t.Fatal("the sealed text is nowhere: the test looks in the wrong place")
	}
}

func TestDerivedKeysDifferByPurposeAndMaster(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	m := newMaster(t)
	a, b := newKeeper(t, app, m), newKeeper(t, newApp(t), newMaster(t))
	if len(a.Derive("audit")) != 32 || !bytes.Equal(a.Derive("audit"), newKeeper(t, app, m).Derive("audit")) {
		t.Error("a derived key is 32 bytes and the same on every start")
	}
	if bytes.Equal(a.Derive("audit"), a.Derive("intent")) || bytes.Equal(a.Derive("audit"), b.Derive("audit")) {
		t.Error("derived keys are alike")
	}
}

func TestASecretOpensWithItsOwnPlaceAndNoOther(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	k := newKeeper(t, app, newMaster(t))
	part := rapid.StringMatching(`[ab]{1,3}`) // few letters, so that different places join to the same text
	type at struct {
		scope string
		ref   secrets.Ref
	}
	draw := func(r *rapid.T, label string) at {
		return at{part.Draw(r, label+" scope"), secrets.Ref{Table: part.Draw(r, label+" table"), Row: part.Draw(r, label+" row"), Field: part.Draw(r, label+" field")}}
	}
	rapid.Check(t, func(r *rapid.T) {
		here, there := draw(r, "here"), draw(r, "there")
		sealed, err := k.Seal(app, here.scope, here.ref, []byte("x"))
		if err != nil {
			r.Fatal(err)
		}
		if _, err := k.Open(app, there.scope, there.ref, sealed); (err == nil) != (here == there) {
			r.Fatalf("sealed at %+v, opened at %+v: %v", here, there, err)
		}
	})
}

// brokenMaster stands for a key management service that does not answer.
type brokenMaster struct {
	secrets.Master
	wrap, unwrap error
}

func (m brokenMaster) Wrap(plain, bind []byte) ([]byte, error) {
	if m.wrap != nil {
		return nil, m.wrap
	}
	return m.Master.Wrap(plain, bind)
}

func (m brokenMaster) Unwrap(wrapped, bind []byte) ([]byte, error) {
	if m.unwrap != nil {
		return nil, m.unwrap
	}
	return m.Master.Unwrap(wrapped, bind)
}

func TestAMasterThatDoesNotAnswerStoresNothing(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	m, away := newMaster(t), errors.New("no answer")
	if _, err := newKeeper(t, app, brokenMaster{m, away, nil}).Seal(app, secrets.System, here, []byte("x")); !errors.Is(err, away) {
		t.Fatal(err)
	}
	if n, _ := app.CountRecords(collections.DataKeies); n != 0 {
		t.Fatal("a key was stored that nothing wraps")
	}
	sealed := seal(t, newKeeper(t, app, m), app, secrets.System, here, "x")
	deaf := newKeeper(t, app, brokenMaster{m, nil, away})
	if _, err := deaf.Open(app, secrets.System, here, sealed); !errors.Is(err, secrets.ErrMasterKey) {
		t.Fatal(err)
	}
	if err := deaf.Check(app); !errors.Is(err, secrets.ErrMasterKey) {
		t.Fatal(err)
	}
}
