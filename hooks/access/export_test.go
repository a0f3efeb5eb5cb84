package access

import (
	"time"

	"github.com/pocketbase/pocketbase/core"
)

// HitSignIn counts one attempt to sign in from a network.
func HitSignIn(d *Access, app core.App, network string) error {
	_, err := d.hit(app, limitSignIn, network)
	return err
}

// Take counts a request in the general limit.
func Take(d *Access, key string) time.Duration { return d.pace.take(key, time.Now()) }

// Tell tells the other instances now.
func Tell(d *Access, app core.App) error { return d.pace.tell(app) }

// RelyingParty is what passkeys are bound to under a public URL: its id and its origin; "" for none.
func RelyingParty(public string) (string, error) {
	w, err := relyingParty(public)
	if err != nil || w == nil {
		return "", err
	}
	return w.Config.RPID + " " + w.Config.RPOrigins[0], nil
}

// WriteUses stores the last uses of API keys now.
func WriteUses(d *Access, app core.App) error { return d.writeUses(app) }

// PurgeKeys removes API keys that ended long before now.
func PurgeKeys(app core.App, now time.Time) (int64, error) { return purgeKeys(app, now) }
