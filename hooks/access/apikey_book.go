package access

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pocketbase/dbx"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"

	"github.com/mambahost/mamba/collections"
	"github.com/mambahost/mamba/wings/wire"
)

// Bounds of API keys.
const (
	MaxKeys       = 50 // that live, of a person for himself, and of an organisation
	maxKeyServers = 50
	maxKeyRanges  = 20
	maxKeyLife    = 5 * 366 * 24 * time.Hour
	keepDeadKeys  = 90 * 24 * time.Hour // that were revoked or have expired: the list of an investigation
	useEvery      = 5 * time.Second     // last uses are written so often
	maxUses       = 10_000              // keys whose last use waits to be written
)

// KeyInput is what a new key is to be; nil is "not given".
type KeyInput struct {
	Name        *string   `json:"name"`
	Permissions []string  `json:"permissions"`
	Servers     []string  `json:"servers"`
	Addresses   []string  `json:"addresses"`
	Expires     *string   `json:"expires_at"`
	expires     time.Time // as checked
}

// Check tidies what was given and says what is wrong with it. Whether its maker has the permissions is not known here.
func (in *KeyInput) Check(now time.Time) error {
	faults := map[string]FieldError{}
	if in.Name == nil {
		in.Name = new(string)
	}
	name, ok := CleanText(*in.Name, MaxNameLength)
	switch *in.Name = name; {
	case name == "":
		faults["name"] = FieldError{Code: "required", Message: "Please give the key a name that says what it is for."}
	case !ok:
		faults["name"] = FieldError{Code: "name_invalid", Message: fmt.Sprintf("Please use at most %d ordinary characters.", MaxNameLength)}
	}
	in.Permissions = slices.Compact(slices.Sorted(slices.Values(in.Permissions)))
	if len(in.Permissions) == 0 {
		faults["permissions"] = FieldError{Code: "required", Message: "Please choose at least one thing that the key may do."}
	}
	in.Servers = slices.Compact(slices.Sorted(slices.Values(in.Servers)))
	if len(in.Servers) > maxKeyServers || slices.ContainsFunc(in.Servers, func(s string) bool { return !wire.ValidID(s) }) {
		faults["servers"] = FieldError{Code: "unknown", Message: fmt.Sprintf("Please choose at most %d servers.", maxKeyServers)}
	}
	if fault := in.ranges(); fault != nil {
		faults["addresses"] = *fault
	}
	if fault := in.until(now); fault != nil {
		faults["expires_at"] = *fault
	}
	if len(faults) > 0 {
		return Invalid(faults)
	}
	return nil
}

// ranges writes addresses as ranges.
func (in *KeyInput) ranges() *FieldError {
	if len(in.Addresses) > maxKeyRanges {
		return &FieldError{Code: "too_many", Message: fmt.Sprintf("Please use at most %d addresses or ranges.", maxKeyRanges)}
	}
	out := []string{}
	for _, text := range in.Addresses {
		text = strings.TrimSpace(text)
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
			out = append(out, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()).String())
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			return &FieldError{Code: "address_invalid", Message: "Please use addresses such as 203.0.113.7, or ranges such as 203.0.113.0/24 and 2001:db8::/48."}
		}
		out = append(out, p.Masked().String())
	}
	in.Addresses = slices.Compact(slices.Sorted(slices.Values(out)))
	return nil
}

func (in *KeyInput) until(now time.Time) *FieldError {
	if in.Expires == nil || *in.Expires == "" {
		return nil
	}
	at, err := time.Parse(time.RFC3339, *in.Expires)
	switch {
	case err != nil:
		return &FieldError{Code: "time_invalid", Message: "Times look like 2027-11-27T14:00:00Z."}
	case !at.After(now) || at.Sub(now) > maxKeyLife:
		return &FieldError{Code: "out_of_range", Message: "Please choose a time in the future, at most five years ahead."}
	}
	in.expires = at
	return nil
}

// KeyView is an API key as those see it who may revoke it.
type KeyView struct {
	ID          string         `json:"id"`
	Name        string         `json:"name"`
	Hint        string         `json:"hint"` // the first characters of the key
	User        string         `json:"user"`
	UserName    string         `json:"user_name"` // who made it
	Permissions []string       `json:"permissions"`
	Servers     []string       `json:"servers"`
	Addresses   []string       `json:"addresses"`
	Created     types.DateTime `json:"created"`
	Expires     types.DateTime `json:"expires_at"` // "" when it does not
	Used        types.DateTime `json:"last_used"`  // "" when it was not used yet
	UsedFrom    string         `json:"last_address"`
	Expired     bool           `json:"expired"`
}

// MakeKey stores a key of a checked input for a and returns its text, which is not to be had again. tenant is empty for
// a personal one. The caller's transaction holds what makes two of them wait for each other.
func (d *Access) MakeKey(tx core.App, a Actor, tenant string, in KeyInput) (KeyView, string, error) {
	where := dbx.HashExp{"tenant": tenant, "revoked_at": ""}
	if tenant == "" {
		where["user"] = a.ID
	}
	n, err := tx.CountRecords(collections.APIKeies, where)
	if err != nil {
		return KeyView{}, "", fmt.Errorf("count API keys: %w", err)
	}
	if n >= MaxKeys {
		return KeyView{}, "", Conflict("key_limit", fmt.Sprintf("There are %d API keys already. Revoke one that is not needed any more first.", n))
	}
	row, err := collections.NewAPIKey(tx)
	if err != nil {
		return KeyView{}, "", err
	}
	token := newKey()
	row.Id = core.GenerateDefaultRandomId()
	row.SetTenant(tenant)
	row.SetUser(a.ID)
	row.SetName(*in.Name)
	row.SetHint(token[:keyHint])
	row.SetTokenHash(d.keyHash(token))
	row.SetPermissions(in.Permissions)
	row.SetServers(listOf(in.Servers))
	row.SetAddresses(listOf(in.Addresses))
	row.SetExpiresAt(in.expires)
	if err := permit.Save(tx, row); err != nil {
		return KeyView{}, "", fmt.Errorf("store an API key: %w", err)
	}
	v, err := d.keyView(row, a.Name, time.Now())
	return v, token, err
}

func listOf(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func (d *Access) keyView(row *collections.APIKey, maker string, now time.Time) (KeyView, error) {
	v := KeyView{ID: row.Id, Name: row.Name(), Hint: row.Hint(), User: row.User(), UserName: maker, Created: row.GetDateTime("created"), Expires: row.GetDateTime("expires_at"),
		Used: row.GetDateTime("used_at"), UsedFrom: row.UsedFrom(), Expired: !keyLives(row, now)}
	if err := errors.Join(row.Permissions(&v.Permissions), row.Servers(&v.Servers), row.Addresses(&v.Addresses)); err != nil {
		return v, fmt.Errorf("read API key %s: %w", row.Id, err)
	}
	v.Permissions, v.Servers, v.Addresses = listOf(v.Permissions), listOf(v.Servers), listOf(v.Addresses)
	if u, ok := d.uses.of(row.Id); ok && u.at.After(row.UsedAt()) {
		v.UsedFrom = u.from
		if err := v.Used.Scan(u.at); err != nil {
			return v, err
		}
	}
	return v, nil
}

// Keys lists the keys of a tenant, or the personal ones of a user when tenant is empty, that are not revoked, the
// newest first.
func (d *Access) Keys(app core.App, tenant, user string) ([]KeyView, error) {
	where := dbx.HashExp{"tenant": tenant, "revoked_at": ""}
	if tenant == "" {
		where["user"] = user
	}
	rows, err := collections.Every[collections.APIKey](app, collections.APIKeies, "created DESC, id", 0, where)
	if err != nil {
		return nil, fmt.Errorf("list API keys: %w", err)
	}
	out := []KeyView{}
	names := map[string]string{}
	for _, row := range rows {
		if _, known := names[row.User()]; !known {
			names[row.User()] = ""
			if u, err := app.FindRecordById("users", row.User()); err == nil {
				names[row.User()] = strings.TrimSpace(u.GetString("name"))
			}
		}
		v, err := d.keyView(row, names[row.User()], time.Now())
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// RevokeKey ends a key of a tenant, or a personal one of a when tenant is empty; 404 when there is none. What is open
// by it is asked about again after the commit.
func (d *Access) RevokeKey(tx core.App, a Actor, tenant, id string) (name string, err error) {
	where := dbx.HashExp{"id": id, "tenant": tenant, "revoked_at": ""}
	if tenant == "" {
		where["user"] = a.ID
	}
	row, err := collections.One[collections.APIKey](tx, collections.APIKeies, where)
	if errors.Is(err, sql.ErrNoRows) {
		return "", NotFound("key_not_found", "There is no such API key, or it is revoked already.")
	}
	if err != nil {
		return "", fmt.Errorf("find API key %s: %w", id, err)
	}
	return row.Name(), d.endKey(tx, row, a.ID, KeyByUser)
}

// RevokeKeys ends the keys that a user has made for a tenant, all of the tenant's when user is empty.
func (d *Access) RevokeKeys(tx core.App, tenant, user, why string) (int, error) {
	where := dbx.HashExp{"tenant": tenant, "revoked_at": ""}
	if user != "" {
		where["user"] = user
	}
	rows, err := collections.Every[collections.APIKey](tx, collections.APIKeies, "id", 0, where)
	if err != nil {
		return 0, fmt.Errorf("list the API keys of tenant %s: %w", tenant, err)
	}
	for _, row := range rows {
		if err := d.endKey(tx, row, "", why); err != nil {
			return 0, err
		}
	}
	return len(rows), nil
}

func (d *Access) endKey(tx core.App, row *collections.APIKey, by, why string) error {
	row.SetRevokedAt(time.Now())
	row.SetRevokedBy(by)
	row.SetRevokedWhy(why)
	if err := permit.Save(tx, row); err != nil {
		return fmt.Errorf("revoke API key %s: %w", row.Id, err)
	}
	if d.keyEnded == nil {
		return nil
	}
	return d.keyEnded(tx)
}

// uses are the last uses of keys that are not written yet.
type uses struct {
	mu   sync.Mutex
	last map[string]use // by key; guarded by mu
}

type use struct {
	at   time.Time
	from string
}

func (u *uses) note(key, from string, at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.last == nil {
		u.last = map[string]use{}
	}
	if _, known := u.last[key]; known || len(u.last) < maxUses {
		u.last[key] = use{at, from}
	}
}

func (u *uses) of(key string) (use, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	one, ok := u.last[key]
	return one, ok
}

func (u *uses) take() map[string]use {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := u.last
	u.last = nil
	return out
}

// writeUses stores the last uses.
func (d *Access) writeUses(app core.App) error {
	last := d.uses.take()
	if len(last) == 0 {
		return nil
	}
	return collections.Tx(app, nil, func(tx core.App) error {
		for key, one := range last {
			// Another instance may have written a later one.
			_, err := tx.NonconcurrentDB().Update(collections.APIKeies, dbx.Params{"used_at": collections.Stamp(one.at), "used_from": one.from},
				dbx.And(dbx.HashExp{"id": key}, dbx.NewExp("[[used_at]] < {:at}", dbx.Params{"at": collections.Stamp(one.at)}))).Execute()
			if err != nil {
				return fmt.Errorf("write the last use of API key %s: %w", key, err)
			}
		}
		return nil
	})
}

// keepUses writes last uses now and then until ctx ends, and once more then.
func (d *Access) keepUses(ctx context.Context, app core.App) {
	tick := time.NewTicker(useEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		if err := d.writeUses(app); err != nil {
			d.log.Warn("the last use of API keys is not written", "error", err)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// purgeKeys removes what was revoked or has expired long ago.
func purgeKeys(app core.App, now time.Time) (int64, error) {
	var n int64
	err := collections.Tx(app, nil, func(tx core.App) error {
		res, err := tx.NonconcurrentDB().NewQuery(`DELETE FROM {{api_keys}} WHERE ([[revoked_at]] != '' AND [[revoked_at]] < {:then}) OR ([[expires_at]] != '' AND [[expires_at]] < {:then})`).
			Bind(dbx.Params{"then": collections.Stamp(now.Add(-keepDeadKeys))}).Execute()
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	if err != nil {
		return n, fmt.Errorf("purge API keys: %w", err)
	}
	return n, nil
}
