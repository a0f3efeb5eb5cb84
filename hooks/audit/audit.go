// Package audit is the append-only record of who did what: one keyed chain of rows per tenant.
//
// It owns audit_logs and audit_heads. It refuses to change or remove a row, and to store what looks
// like a secret. The chain of a tenant that is purged goes as a whole (Bury), with a proof in the installation's.
//
// Its one invariant: row n of a tenant's chain carries an HMAC over all its fields and over the HMAC
// of row n-1, and the tenant's head, written in the same transaction, is sealed over the last one.
// The installation itself is the tenant "".
package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
)

var permit = collections.PermitFor("audit")

// Actor is who did it and from where. Texts that are too long are cut.
type Actor struct {
	Type      string // user, superuser, apikey, node, system or stripe
	ID        string // empty for the system
	Name      string // as it is now, for reading later
	Address   string // IP address
	UserAgent string
	Request   string // request id
}

// System is the actor of what the installation does by itself.
var System = Actor{Type: "system"}

// Entry is what was done.
type Entry struct {
	Tenant       string // empty: the installation
	Action       string // resource.action, e.g. "server.create"
	ResourceType string // collection
	Resource     string // id
	Metadata     map[string]any
}

// Keys are the versions of the chains' key (secrets.Keys).
type Keys interface {
	// All returns the versions, the newest first; at least one.
	All() [][]byte
	// Settled says that every head was signed anew with the newest version (Anchor).
	Settled() bool
	// Refresh reads the versions again, in app's transaction if it is one.
	Refresh(app core.App) error
}

// oneKey never changes.
type oneKey []byte

func (k oneKey) All() [][]byte        { return [][]byte{k} }
func (oneKey) Settled() bool          { return true }
func (oneKey) Refresh(core.App) error { return nil }

// Log writes and verifies the chains. It is safe for concurrent use.
type Log struct {
	keys  Keys
	sink  HeadSink
	more  []HeadSink // read at a verification only
	log   *slog.Logger
	heads sync.Mutex // one WriteHeads at a time; guards the sink's tail
}

// New returns a Log with one key for ever; see Rotating.
func New(key []byte, heads HeadSink, log *slog.Logger) (*Log, error) {
	if len(key) < 32 {
		return nil, fmt.Errorf("audit: a key of %d bytes, want at least 32", len(key))
	}
	return Rotating(oneKey(append([]byte(nil), key...)), heads, log), nil
}

// Rotating returns a Log whose key is replaced now and then. heads keeps the signed heads outside the
// database (Dir) and may be nil where none are kept.
func Rotating(keys Keys, heads HeadSink, log *slog.Logger) *Log {
	if log == nil {
		log = slog.Default()
	}
	return &Log{keys: keys, sink: heads, log: log}
}

// With adds places where other panels keep signed heads, for a verification.
func (l *Log) With(more ...HeadSink) { l.more = append(l.more, more...) }

// Lock is what a transaction holds that writes to a tenant's chain.
func Lock(tenant string) collections.Lock {
	if tenant == "" {
		return "audit"
	}
	return collections.Lock("audit:" + tenant)
}

// Write appends a row to the entry's chain in the caller's transaction, whose locks include
// Lock(e.Tenant). It fails when the actor's type or the action is not storable; the caller then rolls
// its change back.
func (l *Log) Write(tx core.App, a Actor, e Entry) error {
	return collections.Tx(tx, []collections.Lock{Lock(e.Tenant)}, func(tx core.App) error {
		if err := l.append(tx, a, e); err != nil {
			return fmt.Errorf("audit %s: %w", e.Action, err)
		}
		return nil
	})
}

func (l *Log) append(tx core.App, a Actor, e Entry) error {
	head, seq, prev, err := l.next(tx, e.Tenant)
	if err != nil {
		return err
	}
	row, err := collections.NewAuditLog(tx)
	if err != nil {
		return err
	}
	metadata, err := redactedJSON(e.Metadata)
	if err != nil {
		return err
	}
	at, err := types.ParseDateTime(time.Now().UTC().Truncate(time.Millisecond))
	if err != nil {
		return err
	}
	row.Id = core.GenerateDefaultRandomId()
	row.SetTenant(e.Tenant)
	row.SetSeq(seq)
	row.SetActor(clean(a.ID, 64))
	row.SetActorType(a.Type)
	row.SetActorName(clean(a.Name, 255))
	row.SetAction(clean(e.Action, 64))
	row.SetResourceType(clean(e.ResourceType, 32))
	row.SetResource(clean(e.Resource, 64))
	row.SetMetadata(types.JSONRaw(metadata))
	row.SetAddress(clean(a.Address, 64))
	row.SetUserAgent(clean(a.UserAgent, 255))
	row.SetRequest(clean(a.Request, 64))
	row.SetRaw("at", at)
	row.SetRaw("created", at) // covered by the chain only because they equal `at`
	row.SetRaw("updated", at)
	row.SetPrev(prev)
	key := l.keys.All()[0]
	row.SetMAC(rowMAC(key, row))
	if err := permit.Save(tx, row); err != nil {
		return err
	}
	head.SetSeq(seq)
	head.SetMAC(headMAC(key, e.Tenant, seq, row.MAC()))
	return permit.Save(tx, head)
}

// next returns the tenant's head and the number and predecessor of the next row. When head and chain
// do not agree somebody was here; then a number is left out, so that Verify finds it for ever, and
// the customer's work goes on.
func (l *Log) next(tx core.App, tenant string) (head *collections.AuditHead, seq int64, prev string, err error) {
	head, err = collections.One[collections.AuditHead](tx, collections.AuditHeads, dbx.HashExp{"tenant": tenant})
	known := err == nil
	if errors.Is(err, sql.ErrNoRows) {
		head, err = collections.NewAuditHead(tx)
	}
	if err != nil {
		return nil, 0, "", err
	}
	head.SetTenant(tenant)
	rows, err := collections.Every[collections.AuditLog](tx, collections.AuditLogs, "seq DESC", 1, dbx.HashExp{"tenant": tenant})
	if err != nil {
		return nil, 0, "", err
	}
	var last int64
	if len(rows) > 0 {
		last, prev = rows[0].Seq(), rows[0].MAC()
	}
	if !known && last == 0 { // a new chain begins with the newest key
		if err := l.keys.Refresh(tx); err != nil {
			return nil, 0, "", err
		}
		g, err := l.graveOf(tx, tenant)
		if err == nil && g != nil {
			err = ErrBuried
		}
		return head, 1, "", err
	}
	ok, err := l.headGood(tx, head, known, last, prev)
	if err != nil {
		return nil, 0, "", err
	}
	if ok {
		return head, last + 1, prev, nil
	}
	l.log.Error("audit chain and its head differ; run `mambahost audit verify`", "tenant", tenant, "head_seq", head.Seq(), "last_seq", last)
	return head, max(head.Seq(), last) + 2, prev, nil
}

// headGood says whether a head is ours and names the last row. One that another instance signed with a
// key that we have not heard of is looked at again with the keys of now.
func (l *Log) headGood(app core.App, head *collections.AuditHead, known bool, last int64, mac string) (bool, error) {
	if !known || head.Seq() != last {
		return false, nil
	}
	if l.headKey(head, last, mac) >= 0 {
		return true, nil
	}
	if err := l.keys.Refresh(app); err != nil {
		return false, err
	}
	return l.headKey(head, last, mac) >= 0, nil
}

// headKey is which version signed a head, 0 for the newest; -1 for none that may. Once all heads were
// signed anew only the newest may: an older one may be in somebody's hands.
func (l *Log) headKey(head *collections.AuditHead, seq int64, mac string) int {
	all := l.keys.All()
	if l.keys.Settled() {
		all = all[:1]
	}
	for i, key := range all {
		if hmac.Equal([]byte(head.MAC()), []byte(headMAC(key, head.Tenant(), seq, mac))) {
			return i
		}
	}
	return -1
}

// rowMAC is over every column, each with its length before it, in the order of the schema.
func rowMAC(key []byte, r *collections.AuditLog) string {
	return mac(key, "row", r.Id, r.Tenant(), seqText(r.Seq()), r.Actor(), r.ActorType(), r.ActorName(), r.Action(),
		r.ResourceType(), r.Resource(), string(metadataOf(r)), r.Address(), r.UserAgent(), r.Request(),
		r.GetDateTime("at").String(), r.Prev())
}

func headMAC(key []byte, tenant string, seq int64, last string) string {
	return mac(key, "head", tenant, seqText(seq), last)
}

// signedBy is which of the versions made a MAC, 0 for the newest; -1: none that may. A chain goes from
// older versions to newer ones, never back, so it is at least as new as the one before it was.
func signedBy(all [][]byte, before int, got string, with func(key []byte) string) int {
	for i := min(before, len(all)-1); i >= 0; i-- {
		if hmac.Equal([]byte(got), []byte(with(all[i]))) {
			return i
		}
	}
	return -1
}

// mac is HMAC-SHA-256 in hex over length-prefixed parts; the first part keeps the uses apart.
func mac(key []byte, parts ...string) string {
	h := hmac.New(sha256.New, key)
	var n [4]byte
	for _, p := range parts {
		binary.BigEndian.PutUint32(n[:], uint32(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func seqText(n int64) string { return fmt.Sprint(n) }

func metadataOf(r *collections.AuditLog) types.JSONRaw {
	raw, _ := r.GetRaw("metadata").(types.JSONRaw)
	return raw
}

// clean makes a text storable the same on every database: valid UTF-8, no NUL, at most n characters.
func clean(s string, n int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
	if len(s) <= n {
		return s
	}
	if r := []rune(s); len(r) > n {
		return string(r[:n])
	}
	return s
}
